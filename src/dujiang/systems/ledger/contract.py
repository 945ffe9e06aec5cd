"""The ledger's contract: bodies, views and events; the only file of the ledger that another system may import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from dujiang import Event, Id, Instant, Model, Money, key

Currency = Literal["EUR", "USD", "JPY"]
Kind = Literal["transfer", "hold", "refund"]
State = Literal["pending", "posted", "voided", "expired"]
Source = Literal["client", "operator", "provider"]
Outcome = Literal["applied", "waiting", "ignored", "refused"]
Verdict = Literal["matched", "missing_here", "amount_differs", "repeated", "bad"]
SETTLEMENT_COLUMNS = ("kind", "id", "currency", "amount")
# The house's accounts have no owner: an empty name is nobody's, and a request cannot say it.
User = Annotated[str, Field(min_length=1, max_length=64, examples=["ann"])]
AccountId = Annotated[Id, Field(examples=["11", "12"])]
Reference = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
Amount = Annotated[Money, Field(gt=0, le=1_000_000_000, examples=["1.00", "25.00", "300.00"])]
Balance = Annotated[Money, Field(ge=-1_000_000_000_000, le=1_000_000_000_000)]


class NewAccount(Model):
    """An account to be opened; it may not be overdrawn until an operator says otherwise."""

    user_id: User
    currency: Annotated[Currency, Field(examples=["EUR"])]


class Terms(Model):
    """What an operator says of an account."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"floor": "0.00", "ceiling": None, "frozen": False},
                {"floor": "-100.00", "ceiling": "2000.00", "frozen": False},
                {"floor": "0.00", "ceiling": None, "frozen": True},
            ]
        }
    )

    floor: Balance | None = Field(description="The lowest balance; negative = an overdraft, null = none.")
    ceiling: Balance | None = Field(description="The highest balance; null = none.")
    frozen: bool = Field(description="A frozen account neither pays nor is paid.")


class AccountView(Model):
    """An account as it stands; `available` is what a new transfer may take, null = without bound."""

    account_id: Id
    user_id: str
    currency: Currency
    balance: Money
    held: Money
    incoming: Money
    available: Money | None
    floor: Money | None
    ceiling: Money | None
    frozen: bool
    entries: int


class NewTransfer(Model):
    """An amount to be moved at once; under one reference an account is debited once by each kind of request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "ann", "debit": d, "credit": c, "amount": a, "reference": r}
                for d, c, a, r in (
                    ("11", "12", "25.00", "rent-7"),
                    ("12", "11", "300.00", "back-1"),
                    ("11", "13", "700.00", "car-2"),
                    ("12", "13", "0.01", "cent"),
                )
            ]
        }
    )

    user_id: User = Field(description="Who pays: the owner of the debited account.")
    debit: AccountId
    credit: AccountId
    amount: Amount
    currency: Annotated[Currency, Field(examples=["EUR"])] = "EUR"
    reference: Annotated[Reference, Field(examples=["rent-7", "car-2", "cent", "order-1", "order-2"])]


class NewHold(NewTransfer):
    """An amount to be set aside until it is captured, voided, or expires."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user_id": "ann",
                    "debit": d,
                    "credit": c,
                    "amount": a,
                    "reference": r,
                    "expires_in_s": s,
                }
                for d, c, a, r, s in (
                    ("11", "12", "9.00", "h", 86_400),
                    ("11", "12", "40.00", "hotel-1", 2),
                    ("12", "11", "300.00", "hotel-2", 60),
                    ("11", "12", "900.00", "hotel-3", 5),
                )
            ]
        }
    )

    expires_in_s: Annotated[int, Field(ge=1, le=30 * 86_400, examples=[2, 5, 60])]


class Capture(Model):
    """A hold to be posted, whole or in part; what is not taken is released."""

    user_id: User = Field(description="Who is paid: the owner of the credited account.")
    transfer_id: Id
    amount: Amount | None = Field(default=None, description="At most what is held; null = all of it.")


class Void(Model):
    """A hold to be given up by the one whom it would pay."""

    user_id: User = Field(description="The owner of the credited account.")
    transfer_id: Id


class NewRefund(Model):
    """A part of a posted transfer to be given back by the one whom it paid."""

    user_id: User = Field(description="The owner of the account that was credited.")
    transfer_id: Id
    amount: Amount
    reference: Annotated[Reference, Field(examples=["back-a", "back-b", "back-c"])]


class Deposit(Model):
    """Money that came in from outside, told by an operator."""

    account_id: AccountId
    amount: Amount
    reference: Annotated[Reference, Field(examples=["cash-1", "cash-2"])]


class TransferView(Model):
    """A transfer as it stands."""

    transfer_id: Id
    reference: str
    source: Source
    kind: Kind
    state: State
    debit: Id
    credit: Id
    currency: Currency
    amount: Money
    posted: Money
    refunded: Money
    refund_of: Id | None
    expires_at: Instant | None
    created_at: Instant
    closed_at: Instant | None


class EntryView(Model):
    """One line of a statement; a debit is negative."""

    number: int
    transfer_id: Id
    amount: Money
    balance: Money
    posted_at: Instant
    hash: str


class Statement(Model):
    """A period of an account: `opening` and all its entries make `closing`. `next` is the cursor of the next page."""

    account_id: Id
    currency: Currency
    opening: Money
    closing: Money
    entries: list[EntryView]
    next: int | None


class ChainView(Model):
    """Whether an account's entries are those that were written; `broken` is the number of the first that is not."""

    account_id: Id
    entries: int
    head: str
    intact: bool
    broken: int | None
    why: str


class Secret(Model):
    """A secret that the provider signs with."""

    secret: Annotated[str, Field(min_length=16, max_length=200, pattern=r"^[!-~]+$")]


class SecretView(Model):
    """A secret that is trusted; its text is not told."""

    name: str
    active_from: Instant


class ProviderEvent(Model):
    """What the provider says of a payment: `payment.succeeded`, `.refunded`, `.failed`, `.unknown`, or what it adds one day."""

    model_config = ConfigDict(extra="ignore")

    event_id: Reference
    kind: Annotated[str, Field(min_length=1, max_length=32)]
    payment_id: Reference
    account_id: Id
    currency: Currency
    amount: Amount
    occurred_at: Instant


class ProviderReceipt(Model):
    """What became of an event; `duplicate` says that it had come before, and nothing was done again."""

    event_id: str
    outcome: Outcome
    reason: str
    duplicate: bool = False


class SettlementFile(Model):
    """The provider's file of a period: `kind,id,currency,amount`, a line each, kind `payment` or `refund`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "first_at": "2020-01-01T00:00:00Z",
                    "final_at": "2100-01-01T00:00:00Z",
                    "csv": "kind,id,currency,amount\npayment,pay-1,EUR,50.00\npayment,none,EUR,9.00\nnonsense\n",
                }
            ]
        }
    )

    first_at: Instant
    final_at: Instant = Field(description="The end of the period, itself not in it.")
    csv: Annotated[str, Field(min_length=1, max_length=900_000)]

    @model_validator(mode="after")
    def whole(self) -> SettlementFile:
        """Refuse a file without its header, and a period that ends before it begins."""
        if tuple(each.strip() for each in self.csv.split("\n", 1)[0].split(",")) != SETTLEMENT_COLUMNS:
            raise ValueError(f"the first line of `csv` reads {','.join(SETTLEMENT_COLUMNS)}")
        if self.final_at <= self.first_at:
            raise ValueError("`final_at` lies behind `first_at`")
        return self


class BadLine(Model):
    """A line that was kept aside."""

    line: int
    why: str


class Difference(Model):
    """A payment or refund on which the ledger and the file do not agree; `line` is null when the file does not have it."""

    line: int | None
    reference: str
    verdict: Literal["missing_here", "missing_there", "amount_differs", "repeated"]
    amount: Money | None
    why: str


class SettlementReport(Model):
    """What a file and the ledger say of one period; the lists hold the first hundred."""

    file_id: str
    matched: int
    missing_here: int
    missing_there: int
    amount_differs: int
    repeated: int
    bad: int
    bad_lines: list[BadLine]
    differences: list[Difference]


class TransferPosted(Event):
    """Money moved: a transfer, a captured hold or a refund."""

    transfer_id: Id = key()
    debit: Id
    credit: Id
    currency: Currency
    posted: Money
    kind: Kind


class HoldPlaced(Event):
    """Money was set aside."""

    transfer_id: Id = key()
    amount: Money
    expires_at: Instant


class HoldReleased(Event):
    """What was set aside is free again, and nothing moved."""

    transfer_id: Id = key()
    state: Literal["voided", "expired"]
