"""Outcome: what came of a step outside: it happened, it did not, or nobody can say.

The third is why these are three classes and no exception: a caller that has heard nothing must not go on as if nothing had
happened, and a type checker that sees `Ok[str] | Failed | Unknown` makes people say which of them they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ok(Generic[R_co]):
    """It happened.

    Attributes:
        value: What is kept of it; the undo gets it.
    """

    value: R_co


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not happen, and will not: the other side has said so. What was done before is undone.

    Attributes:
        why: For people.
    """

    why: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened, or may still happen. The step is tried again with the same key; at the end it is undone too.

    Attributes:
        why: For people.
    """

    why: str = ""
