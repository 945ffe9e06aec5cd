"""Closing: what a run outside any transaction leaves for the transaction that ends its claim.

    claim ──► outside(subscription, database, claim, event) ──► Closing ──► one transaction: acknowledgement, outcome, pieces

The work itself is done then; the closing says what is written down together with the end of the claim, so that both are
there or neither: the result of a job, for example. Everything in it is fenced as the acknowledgement is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dujiang.messaging.work import STATE_DONE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.data.database import Database
    from dujiang.data.transaction import Piece
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.work import Claim


def _none(now_us: int) -> Sequence[Piece]:  # noqa: ARG001  (the form of a Closing's pieces)
    return ()


@dataclass(frozen=True, slots=True)
class Closing:
    """How a claim ends.

    Attributes:
        state: The state that is counted, of messaging/work.py.
        outcome: Its name, for metrics.
        pieces: Makes what else is written, from the time of the transaction in microseconds.
        ended: The run has ended its claim itself, in the transaction of its last effect; nothing is left to be written.
    """

    state: int = STATE_DONE
    outcome: str = "done"
    pieces: Callable[[int], Sequence[Piece]] = _none
    ended: bool = False


class Instead(Exception):
    """Raised for a piece that found something else than it expected: the claim ends in another way."""

    def __init__(self, closing: Closing) -> None:
        super().__init__(closing.outcome)
        self.closing = closing


Outside: TypeAlias = "Callable[[Subscription, Database, Claim, Any], Awaitable[Closing]]"
