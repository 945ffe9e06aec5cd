"""Cases: the numbers of a conformance suite, and how a case that an adapter cannot meet leaves it.

A case carries the number of the promise that it checks. A case that needs a capability which the adapter declares
absent is not collected at all: a skip looks like work left undone, while an absent capability is a stated fact. What
was left out is listed, by number, in the subclass's `excluded`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

# What a case needs that is about a process which really starts and dies: a simulation kills for the sake of it, and its code
# is the same from the beginning to the end.
REAL = "a real process"


def case(number: str, *, needs: str = "") -> Callable[[F], F]:
    """Number a test; `needs` names the capability without which it has no meaning, or REAL."""

    def numbered(test: F) -> F:
        test.__dict__["case"] = (number, needs)
        return test

    return numbered


class Suite:
    """A class of numbered tests; a subclass names an adapter's capabilities and runs what they allow.

    Attributes:
        excluded: The cases that were left out: number -> the missing capability.
    """

    excluded: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, *, capabilities: Any = None, simulated: bool = False, **rest: Any) -> None:
        """Take the cases out that the capabilities exclude, or the simulation."""
        super().__init_subclass__(**rest)
        if capabilities is None:
            return
        cls.excluded = {}
        for name in dir(cls):
            number, needs = getattr(getattr(cls, name), "case", ("", ""))
            if needs and (simulated if needs == REAL else not getattr(capabilities, needs)):
                cls.excluded[number] = needs
                setattr(cls, name, None)
