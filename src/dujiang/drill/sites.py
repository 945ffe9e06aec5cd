"""Sites: where in the program a task waits, or runs, in the words of its author: file, line and function.

The innermost frame of the user's own code is what counts; where there is none, the innermost frame of the platform. Frames
of the simulation and of asyncio say nothing and are left out.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from types import CodeType

# The platform's own folder, wherever it is installed; a project of the user's may live in a folder of that name too.
HOME = re.escape(str(PurePath(__file__).parents[1]))
LIBRARY = re.compile(r"[/\\](?:site-packages|lib[/\\]python3[.\d]*)[/\\]|^<")
PLATFORM = re.compile(HOME + r"[/\\](?!systems[/\\])")
SIMULATION = re.compile(HOME + r"[/\\](?:drill[/\\]|backends[/\\]\w+[/\\]simulated|testing[/\\]harness)")

# Of files that were judged: 0 = the user's, 1 = the platform's, 2 = says nothing. Not of code objects: two that look alike
# are equal whatever their files are.
KINDS: dict[str, int] = {}
FILES_KEPT = 10_000


def kind_of(code: CodeType) -> int:
    """Whose code it is: 0 the user's, 1 the platform's, 2 nobody's."""
    return kind_of_file(code.co_filename)


def kind_of_file(name: str) -> int:
    """Whose file it is: 0 the user's, 1 the platform's, 2 nobody's."""
    found = KINDS.get(name)
    if found is None:
        ours = PLATFORM.match(name) is not None
        nobody = SIMULATION.match(name) or (LIBRARY.search(name) and not ours)
        found = KINDS[name] = 2 if nobody else 1 if ours else 0
    return found


def short(code: CodeType, line: int) -> str:
    """`folder/file.py:57 function`."""
    return f"{last_two(code.co_filename)}:{line} {code.co_name}"


@lru_cache(maxsize=FILES_KEPT)
def last_two(name: str) -> str:
    """A file and its folder."""
    return "/".join(PurePath(name).parts[-2:])


def frames_of(awaitable: Any) -> Iterator[tuple[CodeType, int]]:
    """The frames of a suspended coroutine, outermost first."""
    while awaitable is not None:
        frame = getattr(awaitable, "cr_frame", None) or getattr(awaitable, "gi_frame", None)
        frame = frame or getattr(awaitable, "ag_frame", None)
        if frame is not None:
            yield frame.f_code, frame.f_lineno
        inner = getattr(awaitable, "cr_await", None)
        if inner is None:
            inner = getattr(awaitable, "gi_yieldfrom", None)
        if inner is None:
            inner = getattr(awaitable, "ag_await", None)
        awaitable = inner


def chosen(frames: list[tuple[CodeType, int]]) -> str:
    """The frame that tells most, of frames outermost first."""
    platform = ""
    for code, line in reversed(frames):
        if runs_drill(code):
            continue
        kind = kind_of(code)
        if kind == 0:
            return short(code, line)
        if kind == 1 and not platform:
            platform = short(code, line)
    return platform


def site_of(task: asyncio.Task[Any]) -> str:
    """Where a suspended task waits."""
    return chosen(list(frames_of(task.get_coro())))


def sites_of(task: asyncio.Task[Any]) -> tuple[str, ...]:
    """All frames of a suspended task that say something, outermost first: its identity among await sites."""
    return tuple(short(code, line) for code, line in frames_of(task.get_coro()) if kind_of(code) < 2)


def running_site(*, user_only: bool = False) -> str:
    """Where the program is now; with `user_only` in the user's code or nowhere."""
    frames = []
    frame = sys._getframe(1)  # noqa: SLF001 - CPython documents it
    while frame is not None:
        frames.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    if user_only:
        return next((short(code, line) for code, line in frames if kind_of(code) == 0 and not runs_drill(code)), "")
    return chosen(frames[::-1])


def running_sites() -> tuple[str, ...]:
    """The frames that say something, from where the program is now: its identity among places."""
    found = []
    frame = sys._getframe(1)  # noqa: SLF001 - CPython documents it
    while frame is not None:
        if kind_of(frame.f_code) < 2:
            found.append(short(frame.f_code, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def runs_drill(code: CodeType) -> bool:
    """Whether code is the program that runs the drill, at the bottom of every stack."""
    return code.co_name == "<module>"
