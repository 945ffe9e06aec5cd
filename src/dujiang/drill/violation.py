"""Violation: something that must hold, and does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """Something that must hold, and does not.

    Attributes:
        invariant: Its name: one of the head of this module, or what the user's law says.
        said: What happened, in one sentence.
        place: Where to look first, `file:line`, or empty.
    """

    invariant: str
    said: str
    place: str = ""

    @property
    def kind(self) -> str:
        """What shrinking must keep: another violation of the same invariant is the same failure."""
        return self.invariant
