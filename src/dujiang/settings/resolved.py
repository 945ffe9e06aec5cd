"""Resolved: the settings of one start, with where each came from; or every problem at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dujiang.kernel.errors import DujiangError
from dujiang.settings.declared import BY_NAME, SETTINGS, Declared
from dujiang.settings.sources import FILE_NAME, Found, Problem, read_environment, read_file, read_flags
from dujiang.settings.urls import file_url

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(eq=False, kw_only=True)
class SettingsRefused(DujiangError):
    """The settings hold mistakes; nothing was started."""

    code = "settings_refused"
    move = "fix"
    cure = "correct each of them; `dujiang doctor` shows every setting and where it comes from"

    problems: tuple[Problem, ...]

    @property
    def detail(self) -> str:
        """Every problem, a line for each."""
        count = len(self.problems)
        head = "1 setting is refused" if count == 1 else f"{count} settings are refused"
        return "\n".join([f"{head}:", *(f"  {problem}" for problem in self.problems)])


@dataclass(frozen=True)
class Row:
    """One line of the resolved table.

    Attributes:
        name: The setting.
        value: As people write it, secrets masked.
        source: `default`, `dujiang.toml:3`, a variable, or a flag.
    """

    name: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """The values of one start; meanings and limits stand in settings/declared.py, under the name without the unit.

    Made by `resolve`. A test may make one by hand: every field has its default. `repr` and `table` mask secrets;
    `database` and `broker` hold them.
    """

    profile: Literal["demo", "production"] = "demo"
    data: Path = Path("var")
    database: str = ""
    broker: str = "database:"
    cache: str = "memory:?max_mib=64"
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    instance: str = ""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    body_limit_bytes: int = 1024 * 1024
    request_timeout_s: float = 30.0
    pool_size: int = 10
    grace_s: float = 10.0
    idempotency_ttl_s: float = 86400.0
    outbox_limit: int = 1_000_000
    outbox_retention_s: float = 7 * 86400.0
    crash_limit: int = 2
    crash_memory_bytes: int = 2**30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    access_log: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """The database follows from the folder when none is named."""
        if not self.database:
            object.__setattr__(self, "database", file_url("sqlite", self.data.absolute() / "app.db"))

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{row.name}={row.value!r}' for row in self.table())})"

    def table(self) -> list[Row]:
        """Every setting, in the order of the declaration, with secrets masked."""
        return [
            Row(row.name, row.kind.show(getattr(self, row.attribute)), self.sources.get(row.name, "default"))
            for row in SETTINGS
        ]


def resolve(
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    *,
    file: Path | None = None,
) -> Settings:
    """The settings of a start: defaults < dujiang.toml < DUJIANG_* < flags.

    Args:
        overrides: Values of the command line by setting, as text or as TOML would hold them; None = not given.
        environ: The environment; default: this process's.
        folder: The folder of dujiang.toml; relative paths start there. Default: the current one.
        file: Another file than dujiang.toml; must exist.

    Raises:
        SettingsRefused: With every problem of every source.
    """
    folder = Path.cwd() if folder is None else folder
    found = Found()
    read_file(found, file or folder / FILE_NAME, required=file is not None)
    read_environment(found, os.environ if environ is None else environ)
    read_flags(found, overrides or {})
    values: dict[str, Any] = {}
    for row in SETTINGS:
        place, raw = found.values.get(row.name, ("default", row.default))
        if raw is None:
            continue
        try:
            values[row.attribute] = row.kind.read(raw, folder=folder)
        except (ValueError, OverflowError) as cause:
            found.refuse(place, f"{row.name}: {cause}")
    if found.problems:
        raise SettingsRefused(problems=tuple(found.problems))
    return Settings(**values, sources={name: place for name, (place, _) in found.values.items()})


def declared_fields() -> list[tuple[str, Declared]]:
    """The fields of Settings with their declarations; a test holds the two together."""
    by_attribute = {row.attribute: BY_NAME[row.name] for row in SETTINGS}
    return [(f.name, by_attribute[f.name]) for f in fields(Settings) if f.name != "sources"]
