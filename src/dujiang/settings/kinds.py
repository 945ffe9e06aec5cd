"""Kinds: how the value of a setting is read, from text (environment, flag) and from TOML, and how it is shown.

A kind accepts one way of writing and names it when it refuses; there is no guessing between `1`, `yes` and `true`. A
TOML value must have the type that a reader of the file would expect: a port is a number, a duration is text with its
unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dujiang.kernel.units import duration_s, size_bytes
from dujiang.settings.paths import why_no_folder
from dujiang.settings.urls import checked, masked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[?[0-9A-Fa-f:.]{2,45}\]?")
UNITS_SHOWN = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
SIZES_SHOWN = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


class Kind(Protocol):
    """One way to write a value.

    Attributes:
        says: What is accepted, for people.
        unit: Appended to the name of the attribute that holds the value, as in `grace_s`; empty = no unit.
    """

    @property
    def says(self) -> str:
        """What is accepted, for people."""
        ...

    @property
    def unit(self) -> str:
        """The unit of the value, as it stands in the attribute's name."""
        ...

    def read(self, value: Any, *, folder: Path) -> Any:
        """The value, from text or from TOML. Raises ValueError with what is accepted; never shows a secret."""
        ...

    def from_text(self, text: str) -> Any:
        """What TOML would hold for this text of an environment variable or a flag."""
        ...

    def show(self, value: Any) -> str:
        """The value as people write it, with secrets masked."""
        ...


class Plain:
    """What most kinds share: text stays text, values show as they are, no unit."""

    unit: ClassVar[str] = ""

    def from_text(self, text: str) -> Any:
        """The text itself."""
        return text

    def show(self, value: Any) -> str:
        """The value as text."""
        return str(value)


@dataclass(frozen=True)
class Whole(Plain):
    """A whole number between two bounds, both included."""

    low: int
    high: int

    @property
    def says(self) -> str:
        """The bounds."""
        return f"a whole number from {self.low:,} to {self.high:,}"

    def from_text(self, text: str) -> Any:
        """The number when the text is one; anything else is refused by `read`."""
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text

    def read(self, value: Any, *, folder: Path) -> int:
        """The number."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not {self.says}")
        return value


@dataclass(frozen=True)
class Flag(Plain):
    """true or false, and nothing else."""

    says: ClassVar[str] = "true or false"

    def from_text(self, text: str) -> Any:
        """The truth when the text is `true` or `false`; anything else is refused by `read`."""
        return {"true": True, "false": False}.get(text, text)

    def read(self, value: Any, *, folder: Path) -> bool:
        """The truth."""
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is not a boolean; write true or false")  # noqa: TRY004  (one error for all kinds)
        return value

    def show(self, value: Any) -> str:
        """As TOML writes it."""
        return "true" if value else "false"


@dataclass(frozen=True)
class Choice(Plain):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def says(self) -> str:
        """The words."""
        return "one of " + ", ".join(self.words)

    def read(self, value: Any, *, folder: Path) -> str:
        """The word."""
        if value not in self.words:
            raise ValueError(f"{value!r} is not {self.says}")
        return str(value)


@dataclass(frozen=True)
class Span:
    """A duration with its unit, between two bounds, in seconds."""

    low_s: float
    high_s: float
    unit: ClassVar[str] = "s"

    @property
    def says(self) -> str:
        """The bounds."""
        return f"a duration from {self.show(self.low_s)} to {self.show(self.high_s)}, as in '10s' or '2h'"

    def from_text(self, text: str) -> Any:
        """The text itself."""
        return text

    def read(self, value: Any, *, folder: Path) -> float:
        """Seconds."""
        if not isinstance(value, str):
            raise ValueError(f'{value!r} is not a duration in quotes with its unit, as in "10s"')  # noqa: TRY004
        seconds = duration_s(value)
        if not self.low_s <= seconds <= self.high_s:
            raise ValueError(f"{value!r} is not {self.says}")
        return seconds

    def show(self, value: Any) -> str:
        """In the largest unit that divides it."""
        for unit, size in UNITS_SHOWN:
            if value and value % size == 0:
                return f"{value / size:g}{unit}"
        return f"{value * 1000:g}ms"


@dataclass(frozen=True)
class Size:
    """A size with its unit, between two bounds, in bytes."""

    low_bytes: int
    high_bytes: int
    unit: ClassVar[str] = "bytes"

    @property
    def says(self) -> str:
        """The bounds."""
        return f"a size from {self.show(self.low_bytes)} to {self.show(self.high_bytes)}, as in '1MiB' or '1MB'"

    def from_text(self, text: str) -> Any:
        """The text itself."""
        return text

    def read(self, value: Any, *, folder: Path) -> int:
        """Bytes."""
        if not isinstance(value, str):
            raise ValueError(f'{value!r} is not a size in quotes with its unit, as in "1MiB"')  # noqa: TRY004
        size = size_bytes(value)
        if not self.low_bytes <= size <= self.high_bytes:
            raise ValueError(f"{value!r} is not {self.says}")
        return size

    def show(self, value: Any) -> str:
        """In the largest binary unit that divides it."""
        for unit, size in SIZES_SHOWN:
            if value % size == 0:
                return f"{value // size}{unit}"
        return f"{value}B"


@dataclass(frozen=True)
class Name(Plain):
    """A short name, or nothing."""

    says: ClassVar[str] = "1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"

    def read(self, value: Any, *, folder: Path) -> str:
        """The name."""
        if not isinstance(value, str) or (value and not NAME.fullmatch(value)):
            raise ValueError(f"{value!r} is not {self.says}")
        return value


@dataclass(frozen=True)
class Host(Plain):
    """A host name or an IP address."""

    says: ClassVar[str] = "a host name or an IP address"

    def read(self, value: Any, *, folder: Path) -> str:
        """The host, an IPv6 address without its brackets."""
        if not isinstance(value, str) or not HOST.fullmatch(value):
            raise ValueError(f"{value!r} is not {self.says}; scheme and port do not belong to it")
        return value.strip("[]")


@dataclass(frozen=True)
class Hosts(Plain):
    """A list of host names; `*` accepts every one."""

    says: ClassVar[str] = "a list of host names; in the environment separated by commas"

    def from_text(self, text: str) -> Any:
        """The parts between the commas."""
        return [part.strip() for part in text.split(",")]

    def read(self, value: Any, *, folder: Path) -> tuple[str, ...]:
        """The names, in lower case."""
        if not isinstance(value, list) or not value:
            raise ValueError(f"{value!r} is not {self.says}")
        for host in value:
            if host != "*" and (not isinstance(host, str) or not HOST.fullmatch(host)):
                raise ValueError(f"{host!r} is not a host name or '*'; scheme and port do not belong to it")
        return tuple(host.lower() for host in value)

    def show(self, value: Sequence[str]) -> str:
        """Separated by commas."""
        return ",".join(value)


@dataclass(frozen=True)
class Folder(Plain):
    """A folder; a relative one starts at the folder of the settings."""

    says: ClassVar[str] = "a folder that exists or can be made"

    def read(self, value: Any, *, folder: Path) -> Path:
        """The absolute path."""
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError(f"{value!r} is not {self.says}")
        path = (folder / value).absolute()
        if why := why_no_folder(path):
            raise ValueError(f"{value!r} cannot be used as a folder: {why}")
        return path


@dataclass(frozen=True)
class Url(Plain):
    """The URL of a port: its scheme chooses the adapter, its query holds the adapter's options."""

    port: str

    @property
    def says(self) -> str:
        """The port."""
        return f"a URL of the port {self.port}"

    def read(self, value: Any, *, folder: Path) -> str:
        """The URL; the path of a file URL made absolute."""
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not {self.says}")  # noqa: TRY004  (one error for all kinds)
        return checked(self.port, value, folder=folder)

    def show(self, value: Any) -> str:
        """Without its secrets."""
        return masked(value)
