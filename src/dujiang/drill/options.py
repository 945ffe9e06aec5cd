"""Options: what people say to a drill, read and refused with the cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.drill.brokers import CHOICES
from dujiang.drill.nemesis import FAMILIES
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.units import duration_s

if TYPE_CHECKING:
    from pathlib import Path

PROBE = ".writable"


@dataclass(eq=False, kw_only=True)
class DrillOptionRefused(DujiangError):
    """An option of the drill means nothing."""

    code = "drill_option"
    move = "fix"
    says = "{option} {given!r}: {why}"
    cure = "{instead}"
    exit_code = 64

    option: str
    given: str
    why: str
    instead: str


@dataclass(eq=False, kw_only=True)
class DrillFolderRefused(DujiangError):
    """Replay files and reports cannot be written where they should go; nothing was run."""

    code = "drill_folder"
    move = "fix"
    says = "cannot write into {folder}: {why}"
    cure = "name another folder with --out"

    folder: str
    why: str


def writable(folder: Path) -> Path:
    """The folder, made when it is missing. Raises DrillFolderRefused before hours of work are lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROBE).write_bytes(b"")
        (folder / PROBE).unlink()
    except OSError as error:
        raise DrillFolderRefused(folder=str(folder), why=error.strerror or repr(error)) from error
    return folder


def budget_s(text: str) -> float:
    """Real seconds of a text such as `60s`. Raises DrillOptionRefused."""
    try:
        seconds = duration_s(text)
    except ValueError as error:
        raise DrillOptionRefused(
            option="--budget", given=text, why=str(error), instead="write 60s, 5m or 1h"
        ) from error
    if seconds <= 0:
        why, instead = "no schedule fits into no time", "give the random schedules some time, or use --seeds N"
        raise DrillOptionRefused(option="--budget", given=text, why=why, instead=instead)
    return seconds


def kinds(text: str) -> tuple[str, ...]:
    """Kinds of faults of a text such as `kill,reply`; empty = all. Raises DrillOptionRefused."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in found:
        if word not in FAMILIES:
            why = "is no kind of fault"
            raise DrillOptionRefused(option="--only", given=word, why=why, instead=f"known are: {', '.join(FAMILIES)}")
    return found


def broker_named(text: str) -> str:
    """A choice of brokers. Raises DrillOptionRefused."""
    if text not in CHOICES:
        why = "is no broker that the drill knows"
        raise DrillOptionRefused(option="--broker", given=text, why=why, instead=f"known are: {', '.join(CHOICES)}")
    return text
