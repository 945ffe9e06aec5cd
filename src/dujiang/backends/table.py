"""The table of adapters: which class serves which scheme of which port.

The only place that names adapters. They are loaded by name, so an adapter whose driver is not installed costs nothing.
tests/tidy/test_adapters.py resolves every row.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any, Literal

from dujiang.kernel.errors import DujiangError


@dataclass(eq=False, kw_only=True)
class UnknownAdapter(DujiangError):
    """No adapter of this port knows the scheme of its URL."""

    code = "unknown_adapter"
    move = "fix"
    says = "no adapter of the port {port} knows the scheme {scheme!r}; known are {known}"
    cure = "did you mean {nearest}?"

    port: str
    scheme: str
    known: str
    nearest: str


@dataclass(eq=False, kw_only=True)
class MissingExtra(DujiangError):
    """The driver of the chosen adapter is not installed."""

    code = "missing_extra"
    move = "fix"
    says = "{scheme}: as {port} needs the package {driver}, which is not installed"
    cure = "pip install 'dujiang[{extra}]'"

    port: str
    scheme: str
    driver: str
    extra: str


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One row.

    Attributes:
        port: The port that the adapter serves; also the name of the setting.
        scheme: The scheme of its URLs.
        path: `module:Class`.
        shape: What the URL names: a server, a file, or nothing beyond the scheme.
        driver: The module that must be installed; empty = part of the base install.
        extra: The extra of the package that installs it.
        options: The names that the query of the URL may hold.
    """

    port: str
    scheme: str
    path: str
    shape: Literal["server", "file", "bare"]
    driver: str = ""
    extra: str = ""
    options: tuple[str, ...] = ()


ADAPTERS = (
    Adapter(port="database", scheme="sqlite", path="dujiang.backends.sqlite.database:SqliteDatabase", shape="file"),
    Adapter(
        port="database",
        scheme="postgresql",
        path="dujiang.backends.postgres.database:PostgresDatabase",
        shape="server",
        driver="asyncpg",
        extra="postgres",
        options=(
            # Ours; backends/postgres/options.py says what they mean.
            *("pool_size", "reader_pool_size", "waiters_max", "wait", "connect_timeout", "statement_timeout"),
            *("lock_timeout", "idle_timeout", "settle_timeout"),
            # The driver's.
            *("host", "port", "user", "password", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl"),
            *("target_session_attrs", "application_name", "search_path"),
        ),
    ),
    Adapter(port="broker", scheme="database", path="dujiang.backends.sql.broker:SqlBroker", shape="bare"),
)


def schemes(port: str) -> list[str]:
    """The schemes that a port knows, in the order of the table."""
    return [row.scheme for row in ADAPTERS if row.port == port]


def adapter(port: str, scheme: str) -> Adapter | None:
    """The row of a scheme, or None."""
    return next((row for row in ADAPTERS if row.port == port and row.scheme == scheme), None)


def load(port: str, url: str) -> Any:
    """The class of the adapter that serves `url`; a bare scheme will do. The URL itself is not judged, and not shown.

    Raises:
        UnknownAdapter: If the port has no such scheme. Names the nearest one.
        MissingExtra: If the adapter's driver is not installed. Names what installs it.
    """
    scheme = url.partition(":")[0]
    row = adapter(port, scheme)
    if row is None:
        known = schemes(port)
        near = difflib.get_close_matches(scheme.lower(), known, n=1, cutoff=0.5) or known or ["another port"]
        raise UnknownAdapter(port=port, scheme=scheme, known=", ".join(known) or "none", nearest=near[0])
    module, _, name = row.path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as missing:
        # Only the driver's own absence is the user's to cure; any other missing module is a fault of ours.
        if not row.driver or (missing.name or "").partition(".")[0] != row.driver:
            raise
        raise MissingExtra(port=port, scheme=scheme, driver=row.driver, extra=row.extra) from missing


# Which function opens a store for migrations alone, by the scheme of its URL.
OPENERS = {
    "sqlite": "dujiang.backends.sqlite.migrating:opener",
    "postgresql": "dujiang.backends.postgres.migrating:opener",
}


def load_opener(url: str) -> Any:
    """The function that opens the store at `url` for migrations. Raises UnknownAdapter or MissingExtra."""
    load("database", url)
    module, _, name = OPENERS[url.partition(":")[0]].partition(":")
    return getattr(importlib.import_module(module), name)
