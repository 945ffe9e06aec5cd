"""Held: what the functions of a saga hold while they run: a Call with a key of its own, and the fence of the claim.

The key of a step outside follows from the id of the saga and the name of the step alone, so every try, in whatever process,
hands on the same one. Its undo has a key of its own, and gets that of its step as `call.undoes`: with it the other side can be
told to let go of what it may not have received yet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.messaging.call import KEY_BYTES, Call
from dujiang.messaging.direct import fence_piece

if TYPE_CHECKING:
    from dujiang.data.transaction import Piece
    from dujiang.messaging.work import Claim


@dataclass(eq=False, slots=True)
class Hold:
    """The claim of a run, until a transaction of the run ends it.

    Attributes:
        claim: The claim.
        name: The saga's stored name.
        ended: Whether the transaction that is open, or was the last, ends the claim; then its acknowledgement is the fence.
        outcome: How it ended.
    """

    claim: Claim
    name: str
    ended: bool = False
    outcome: str = "done"

    @property
    def fence(self) -> Piece | None:
        """What lets a transaction commit only while the claim is ours."""
        return None if self.ended else fence_piece(self.name, self.claim)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCall(Call):
    """One try of a step or of its undo.

    Attributes:
        hold: The claim under which it runs.
    """

    hold: Hold = field(repr=False)

    @property
    def fence(self) -> Piece | None:
        """What ends every transaction of this run: it commits only while the run has its saga."""
        return self.hold.fence


def key_of(saga_id: int, step: str, *, undo: bool = False) -> str:
    """The key of a step, or of its undo: 32 visible ASCII characters."""
    what = saga_id.to_bytes(8, "big") + step.encode() + (b"\x00undo" if undo else b"")
    return hashlib.blake2b(what, digest_size=KEY_BYTES, person=b"dujiang-saga").hexdigest()
