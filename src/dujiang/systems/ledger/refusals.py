"""What the ledger refuses, and with which code; nothing of a refused call is written."""

from __future__ import annotations

from dujiang import Refusal


class UnknownAccount(Refusal):
    """There is no such account, or it is not the caller's: which of the two is not told."""

    code = "unknown_account"
    status = 404


class UnknownTransfer(Refusal):
    """There is no such transfer, or it is not the caller's to act upon."""

    code = "unknown_transfer"
    status = 404


class SameAccount(Refusal):
    """A transfer has two accounts."""

    code = "same_account"
    status = 422


class CurrencyMismatch(Refusal):
    """An account is kept in another currency than the amount."""

    code = "currency_mismatch"
    status = 422


class AmountScale(Refusal):
    """The amount has decimals that its currency does not have."""

    code = "amount_scale"
    status = 422


class AccountFrozen(Refusal):
    """The account neither pays nor is paid."""

    code = "account_frozen"


class InsufficientFunds(Refusal):
    """The amount is more than is available above the account's floor."""

    code = "insufficient_funds"


class CeilingReached(Refusal):
    """The account may not hold so much."""

    code = "ceiling_reached"


class ReferenceReused(Refusal):
    """The reference belongs to another transfer from this account."""

    code = "reference_reused"
    status = 422


class HoldClosed(Refusal):
    """The hold was captured, voided or has expired; that happens once."""

    code = "hold_closed"


class AboveHold(Refusal):
    """More is asked for than is held."""

    code = "above_hold"
    status = 422


class NotRefundable(Refusal):
    """Nothing was posted that could go back: a hold that is open or given up, or a refund."""

    code = "not_refundable"


class AboveRefundable(Refusal):
    """All refunds of a transfer together are at most what was posted."""

    code = "above_refundable"


class BoundCrossed(Refusal):
    """The new bounds would not hold for the money that is there."""

    code = "bound_crossed"


class BadSignature(Refusal):
    """The request was not signed with a secret that is trusted."""

    code = "bad_signature"
    status = 401


class SignatureTooOld(Refusal):
    """The signature was made too long ago, or in the future."""

    code = "signature_too_old"
    status = 401


class BadProviderEvent(Refusal):
    """The signed body is no event that can be read."""

    code = "bad_provider_event"
    status = 422


class EventIdReused(Refusal):
    """The id belongs to another event of the provider."""

    code = "event_id_reused"


class NotRetriable(Refusal):
    """The event was booked, or says nothing that could be."""

    code = "not_retriable"


class UnknownEvent(Refusal):
    """No such event came."""

    code = "unknown_event"
    status = 404
