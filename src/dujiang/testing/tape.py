"""Tape: the choices of one schedule, and the probe that lets a process die at a crash point."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.telemetry import crash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEADLY = ("saga_step_done", "saga_comp_done", "before_commit", "after_commit")


class Killed(BaseException):
    """The process dies."""


@dataclass
class Tape:
    """The choices of one schedule.

    Attributes:
        given: What was decided before; behind it the first alternative counts.
        taken: What was chosen, and among how many.
        told: The choices that are not the first, in words.
    """

    given: tuple[int, ...]
    taken: list[tuple[int, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def choose(self, what: str, words: Sequence[str]) -> str:
        """One of some words."""
        place = len(self.taken)
        choice = self.given[place] if place < len(self.given) else 0
        self.taken.append((choice, len(words)))
        if choice:
            self.told.append(f"{what} {words[choice]}")
        return words[choice]

    def children(self, faults: int) -> Iterator[tuple[int, ...]]:
        """The schedules that have one deviation more, behind the last one of this."""
        if sum(1 for choice, _ in self.taken if choice) >= faults:
            return
        choices = [choice for choice, _ in self.taken]
        for place in range(len(self.given), len(self.taken)):
            for choice in range(1, self.taken[place][1]):
                yield (*choices[:place], choice)


class Probe(crash.Armed):
    """Asks at each crash point of a transition whether the process dies there."""

    def __init__(self, tape: Tape) -> None:
        super().__init__("", 0)
        self.tape: Tape | None = tape

    def passed(self, name: str) -> None:
        """Die here, or not."""
        if self.tape is not None and name in DEADLY and self.tape.choose(f"at {name}", ("goes on", "dies")) == "dies":
            raise Killed


@contextmanager
def armed(probe: Probe) -> Iterator[None]:
    """Let a probe stand at every crash point for the block."""
    before, crash.ARMED = crash.ARMED, probe
    try:
        yield
    finally:
        crash.ARMED = before
        probe.tape = None
