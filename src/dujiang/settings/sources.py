"""Sources: where values come from, each with the place that a problem can name.

    defaults  <  dujiang.toml  <  DUJIANG_* variables  <  flags

Every source reads all it can and notes what is wrong, so that one start shows every problem at once.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.settings.declared import BY_NAME, BY_VARIABLE, OPERATIONAL, Declared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FILE_NAME = "dujiang.toml"
PREFIX = "DUJIANG_"
FILE_LIMIT_BYTES = 1 << 20
LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
ENCODINGS = ((b"\xef\xbb\xbf", "a byte order mark"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: `dujiang.toml:3`, a variable, or a flag.
        what: The mistake and its cure, without secrets.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Found:
    """What the sources hold.

    Attributes:
        values: By setting: the place, and the value as TOML would hold it. A later source replaces an earlier one.
        problems: What is wrong, in the order of the sources.
    """

    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, where: str, what: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(where, what))


def read_file(found: Found, path: Path, *, required: bool) -> None:
    """Read dujiang.toml. A missing file is right unless it was asked for by name."""
    where = path.name
    try:
        if path.is_dir():
            return found.refuse(where, "is a folder; a file is needed")
        if path.exists() and not path.is_file():
            return found.refuse(where, "is no ordinary file")
        if path.exists() and path.stat().st_size > FILE_LIMIT_BYTES:
            return found.refuse(where, "is larger than 1 MiB; that is no file of settings")
        raw = path.read_bytes()
    except FileNotFoundError:
        return found.refuse(where, f"there is no file {path}") if required else None
    except (OSError, ValueError) as cause:
        return found.refuse(where, f"cannot be read: {getattr(cause, 'strerror', None) or cause}")
    for mark, name in ENCODINGS:
        if raw.startswith(mark):
            return found.refuse(f"{where}:1", f"begins with {name}; save the file as plain UTF-8")
    if not raw.strip():
        return found.refuse(f"{where}:1", "the file is empty; write a setting, or remove the file")
    try:
        text = raw.decode()
    except UnicodeDecodeError as cause:
        line = raw.count(b"\n", 0, cause.start) + 1
        return found.refuse(f"{where}:{line}", "is not UTF-8; save the file as plain UTF-8")
    return read_document(found, text, where=where)


def read_document(found: Found, text: str, *, where: str) -> None:
    """Read the text of dujiang.toml."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as cause:
        place = LINE.search(str(cause))
        line = int(place[1]) if place and place[1] else text.rstrip("\n").count("\n") + 1
        what = LINE.sub("", str(cause))
        if "overwrite" in what or "twice" in what or "already" in what or "declare" in what:
            what = f"a key or table stands twice ({what})"
        return found.refuse(f"{where}:{line}", f"is not valid TOML: {what}")
    for key, value in document.items():
        place_of_key = f"{where}:{line_of(text, key)}"
        row = BY_NAME.get(key)
        if row is None:
            what = "section" if isinstance(value, dict) else "setting"
            found.refuse(place_of_key, f"unknown {what} {shown(key)}; {meant(key, BY_NAME)}")
        elif isinstance(value, dict):
            found.refuse(place_of_key, f"{key!r} is a setting, not a section; write {key} = {example(row)}")
        else:
            found.values[key] = (place_of_key, value)
    return None


def read_environment(found: Found, environ: Mapping[str, str]) -> None:
    """Read the DUJIANG_* variables."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in OPERATIONAL:
            continue
        row = BY_VARIABLE.get(name)
        if row is None:
            found.refuse(name, f"unknown variable; {meant(name, [*BY_VARIABLE, *OPERATIONAL], prefix=PREFIX)}")
        elif not environ[name]:
            found.refuse(name, "is empty; give it a value or unset it")
        else:
            found.values[row.name] = (name, row.kind.from_text(environ[name]))


def read_flags(found: Found, overrides: Mapping[str, Any]) -> None:
    """Read the values of the command line; None = the flag was not given."""
    for name, value in overrides.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if name not in BY_NAME:
            found.refuse(flag, f"unknown setting {shown(name)}; {meant(name, BY_NAME)}")
        elif value == "":
            found.refuse(flag, "is empty; give it a value or leave it out")
        else:
            found.values[name] = (flag, BY_NAME[name].kind.from_text(value) if isinstance(value, str) else value)


def line_of(text: str, key: str) -> int:
    """The line of a top-level key, from 1; a line inside a multi-line string that looks like it does not count."""
    lines = text.split("\n")
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
    for number, line in enumerate(lines, 1):
        if pattern.match(line):
            try:
                tomllib.loads("\n".join(lines[: number - 1]))
            except tomllib.TOMLDecodeError:
                continue
            return number
    return 1


def meant(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """The nearest known name, or all of them. A prefix that all share does not make two names alike."""
    known = list(known)
    folded = {candidate.removeprefix(prefix).lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.removeprefix(prefix).lower().replace("-", "_"), folded, n=1)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return "known are: " + ", ".join(known)


def shown(name: str) -> str:
    """A name that somebody wrote, short enough for a message."""
    return repr(name if len(name) <= 64 else name[:61] + "...")


def example(row: Declared) -> str:
    """A value as it would stand in dujiang.toml."""
    return repr(row.default).replace("'", '"') if row.default is not None else '"sqlite:///var/app.db"'
