"""Rows: accounts and transfers as a transaction holds them in memory, and what is asked of one of them alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dujiang.systems.ledger.contract import AccountView, TransferView
from dujiang.systems.ledger.refusals import AccountFrozen, AmountScale, CurrencyMismatch, ReferenceReused

if TYPE_CHECKING:
    from datetime import datetime

ZERO = Decimal("0.00")
# Currencies whose smallest unit is no hundredth. One with thousandths needs columns and fields of Scale(3).
DECIMALS = {"JPY": 0}


@dataclass(slots=True)
class Account:
    """A row of `ledger_account` that is locked, with what was done to it since."""

    account_id: int
    owner: str
    currency: Any
    floor: Decimal | None
    ceiling: Decimal | None
    frozen: bool
    balance: Decimal
    held: Decimal
    incoming: Decimal
    entries: int
    head: str
    last_at: datetime

    @property
    def available(self) -> Decimal | None:
        """What a new transfer may take; None = without bound."""
        return None if self.floor is None else self.balance - self.held - self.floor

    def view(self) -> AccountView:
        """As it is shown."""
        return AccountView(
            account_id=self.account_id,
            user_id=self.owner,
            currency=self.currency,
            balance=self.balance,
            held=self.held,
            incoming=self.incoming,
            available=self.available,
            floor=self.floor,
            ceiling=self.ceiling,
            frozen=self.frozen,
            entries=self.entries,
        )


@dataclass(slots=True)
class Transfer:
    """A row of `ledger_transfer`, with what was done to it since."""

    transfer_id: int
    source: Any
    reference: str
    kind: Any
    state: Any
    debit: int
    credit: int
    currency: Any
    amount: Decimal
    posted: Decimal
    refunded: Decimal
    refund_of: int | None
    expires_at: datetime | None
    created_at: datetime
    closed_at: datetime | None

    @property
    def name(self) -> tuple[int, str, str, str]:
        """By what it is found again: account, source, kind and reference."""
        return (self.debit, self.source, self.kind, self.reference)

    def view(self) -> TransferView:
        """As it is shown."""
        return TransferView(**asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A transfer that somebody wants.

    Attributes:
        source: Who: a client, an operator, the provider.
        reference: The wish's own name, per debited account, source and kind.
        kind: "transfer" or "refund" moves money at once, "hold" sets it aside.
        debit: The account that pays.
        credit: The account that is paid.
        currency: Of the amount.
        amount: How much.
        expires_at: When a hold ends by itself.
        refund_of: The transfer of which this gives a part back.
    """

    source: str
    reference: str
    kind: str
    debit: int
    credit: int
    currency: str
    amount: Decimal
    expires_at: datetime | None = None
    refund_of: int | None = None


def same(before: Transfer, wish: Wish) -> Transfer:
    """The transfer that was made under a reference before, if it is the one that is asked for. Raises ReferenceReused."""
    asked = (wish.credit, wish.currency, wish.amount, wish.refund_of)
    if (before.credit, before.currency, before.amount, before.refund_of) != asked:
        told = f"the reference {wish.reference} belongs to another transfer from account {wish.debit}"
        raise ReferenceReused(told, transfer_id=str(before.transfer_id))
    return before


def thawed(each: Account) -> None:
    """Raise AccountFrozen if an account is."""
    if each.frozen:
        raise AccountFrozen(f"account {each.account_id} is frozen", account_id=str(each.account_id))


def scaled(amount: Decimal, currency: str) -> None:
    """Raise AmountScale if an amount has decimals that its currency does not have."""
    decimals = DECIMALS.get(currency, 2)
    if amount != round(amount, decimals):
        raise AmountScale(f"{currency} has {decimals} decimals, and {amount} has more", decimals=decimals)


def kept_in(each: Account, currency: str) -> None:
    """Raise CurrencyMismatch if an account is kept in another currency."""
    if each.currency != currency:
        told = f"account {each.account_id} is kept in {each.currency}, and the amount is in {currency}"
        raise CurrencyMismatch(told, account_id=str(each.account_id), currency=each.currency)


def change_of(each: Transfer) -> dict[str, Any]:
    """The parameters of CHANGE_TRANSFER."""
    return {
        "of": each.transfer_id,
        "new_state": each.state,
        "new_posted": each.posted,
        "new_refunded": each.refunded,
        "new_closed_at": each.closed_at,
    }


def balance_of(each: Account) -> dict[str, Any]:
    """The parameters of CHANGE_ACCOUNT."""
    return {
        "of": each.account_id,
        "new_balance": each.balance,
        "new_held": each.held,
        "new_incoming": each.incoming,
        "new_entries": each.entries,
        "new_head": each.head,
        "new_last_at": each.last_at,
    }
