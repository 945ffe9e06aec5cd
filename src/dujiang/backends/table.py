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
        names: What the path of a server's URL names.
        many_hosts: The URL of a server may name several, with commas.
    """

    port: str
    scheme: str
    path: str
    shape: Literal["server", "file", "bare"]
    driver: str = ""
    extra: str = ""
    options: tuple[str, ...] = ()
    names: str = "database"
    many_hosts: bool = False


ADAPTERS = (
    Adapter(port="database", scheme="sqlite", path="dujiang.backends.sqlite.database:SqliteDatabase", shape="file"),
    Adapter(
        port="database",
        scheme="postgresql",
        path="dujiang.backends.postgres.database:PostgresDatabase",
        shape="server",
        driver="asyncpg",
        extra="postgres",
        many_hosts=True,
        options=(
            # Ours; backends/postgres/options.py says what they mean.
            *("pool_size", "reader_pool_size", "waiters_max", "wait", "connect_timeout", "statement_timeout"),
            *("lock_timeout", "idle_timeout", "settle_timeout"),
            # The driver's.
            *("host", "port", "user", "password", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl"),
            *("target_session_attrs", "application_name", "search_path"),
        ),
    ),
    Adapter(
        port="database",
        scheme="simulated",
        path="dujiang.backends.sqlite.simulated.database:SimulatedDatabase",
        shape="bare",
    ),
    Adapter(port="lock", scheme="database", path="dujiang.backends.sql.lock:SqlLocks", shape="bare"),
    Adapter(port="broker", scheme="database", path="dujiang.backends.sql.broker:SqlBroker", shape="bare"),
    *(
        Adapter(
            port="broker",
            scheme=scheme,
            path="dujiang.backends.rabbitmq.broker:RabbitBroker",
            shape="server",
            names="virtual host",
            driver="aiormq",
            extra="rabbitmq",
            options=(
                # Ours; backends/rabbitmq/broker.py says what they mean.
                *("prefix", "queue_limit", "connect_timeout", "confirm_timeout"),
                # The driver's.
                *("heartbeat", "cafile", "capath", "certfile", "keyfile"),
            ),
        )
        for scheme in ("amqp", "amqps")
    ),
    Adapter(
        port="broker",
        scheme="simulated",
        path="dujiang.backends.rabbitmq.simulated.broker:SimulatedBroker",
        shape="bare",
    ),
    Adapter(
        port="cache",
        scheme="memory",
        path="dujiang.backends.memory.cache:MemoryCache",
        shape="bare",
        options=("max_mib",),
    ),
    *(
        Adapter(
            port="cache",
            scheme=scheme,
            path="dujiang.backends.redis.cache:RedisCache",
            shape="server",
            names="number of a database",
            driver="hiredis",
            extra="redis",
            # backends/redis/options.py says what they mean.
            options=(
                *("prefix", "timeout", "connect_timeout", "max_mib"),
                *(("cafile", "capath", "certfile", "keyfile") if scheme == "rediss" else ()),
            ),
        )
        for scheme in ("redis", "rediss")
    ),
    Adapter(
        port="cache",
        scheme="simulated",
        path="dujiang.backends.redis.simulated.cache:SimulatedCache",
        shape="bare",
    ),
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


# What makes a layer between a store in a file and its disk, for drills, by the scheme of its URL.
LAYERS = {"sqlite": "dujiang.backends.sqlite.vfs:layered"}


def load_layer(url: str) -> Any:
    """The context manager (name, disk) that puts a disk below the store at `url`. Raises UnknownAdapter."""
    load("database", url)
    scheme = url.partition(":")[0]
    if scheme not in LAYERS:
        raise UnknownAdapter(port="disk", scheme=scheme, known=", ".join(LAYERS), nearest=next(iter(LAYERS)))
    module, _, name = LAYERS[scheme].partition(":")
    return getattr(importlib.import_module(module), name)


# Who copies a store out and in, by the scheme of its URL.
KEEPERS = {
    "sqlite": "dujiang.backends.sqlite.backup:SqliteKeeper",
    "postgresql": "dujiang.backends.postgres.backup:PostgresKeeper",
}


def load_keeper(url: str) -> Any:
    """The class that makes and restores backups of the store at `url`. Raises UnknownAdapter or MissingExtra."""
    load("database", url)
    module, _, name = KEEPERS[url.partition(":")[0]].partition(":")
    return getattr(importlib.import_module(module), name)
