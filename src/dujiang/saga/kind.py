"""Kind: a declared saga as its runs see it, and the errors of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dujiang.saga.definition import Flow


class Moved(Exception):
    """The row is not where this run has left it: an operator has changed something."""


@dataclass(eq=False, kw_only=True)
class SagaStuck(DujiangError):
    """A saga can go neither on nor back by itself; an operator decides."""

    code = "saga_stuck"
    move = "fix"
    says = "{saga} {saga_id} is stuck at {step}: {why}"
    cure = "look at it with `dujiang sagas show {saga_id}`, then retry, skip the step, compensate, or resume it with another state"

    saga: str
    saga_id: int
    step: str
    why: str


@dataclass(eq=False, kw_only=True)
class StepUnknown(DujiangError):
    """Nobody can say whether a step outside has happened; it is tried again with the same key."""

    code = "saga_step_unknown"
    move = "wait"
    says = "the outcome of {step} of {saga} {saga_id} is not known: {why}"

    saga: str
    saga_id: int
    step: str
    why: str


@dataclass(eq=False, kw_only=True)
class SagaUnreadable(DujiangError):
    """This version of the code does not have a step that a stored saga has taken, or is to take."""

    code = "saga_unreadable"
    move = "wait"
    says = "{saga} {saga_id} is at {step}, which this version of the code does not have"

    saga: str
    saga_id: int
    step: str


@dataclass(eq=False, kw_only=True)
class KeyRefused(DujiangError):
    """The key of a saga cannot be stored."""

    code = "saga_key_refused"
    move = "fix"
    says = "{saga} got a key of {length} characters"
    cure = "let `key=` and `by=` give 1 to 255 characters, no NUL"

    saga: str
    length: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Kind:
    """A declared saga, as its runs see it.

    Attributes:
        name: The stored name.
        flow: Its parts.
        version: Of its state.
        upgrades: How the JSON object of one version becomes that of the next.
        attempts: The bound on tries of a step that has none of its own.
        stuck_after: The bound on tries of an undo.
        keep_us: How long an ended one is known.
        given: What the app provides, by parameter.
    """

    name: str
    flow: Flow
    version: int
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
    attempts: int
    stuck_after: int
    keep_us: int
    given: Mapping[str, Any]

    def upgraded(self, data: bytes, version: int) -> bytes:
        """A stored state, brought to the present version. Raises what a step of the way raises."""
        steps = [self.upgrades[each] for each in range(version, self.version) if each in self.upgrades]
        if not steps:
            return data
        found = from_json(data)
        for step in steps:
            found = step(found)
        return to_json(found)


def hopeless(error: BaseException) -> bool:
    """Whether another try is of no use: a refusal, or something that somebody must put right."""
    return isinstance(error, DujiangError) and error.move in ("fix", "choose")


def elsewhere(error: BaseException) -> bool:
    """Whether an error says nothing about the step: the database was away, a connection broke, the lease is lost."""
    return isinstance(error, DujiangError) and error.move == "wait" and not isinstance(error, StepUnknown)
