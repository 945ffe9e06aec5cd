"""Chain: each entry of an account carries a hash that covers the entry before it.

    entry 1           entry 2           entry 3
    hash(0..0, 1) ◄── hash(head, 2) ◄── hash(head, 3) ◄── ledger_account.head

What is hashed is text, one field a line, so that anybody can compute it again with any language and without this program:

    dujiang-ledger-entry-1        the form and its version
    <64 hexadecimal digits>       the hash of the account's entry before; 64 zeros before the first
    1100                          account_id
    1                             number, from 1 without a gap
    7214893750123                 transfer_id
    -1999                         amount in minor units, hundredths for every currency; a debit is negative
    98001                         balance after it, in minor units
    1767225600000000              posted_at, in microseconds since 1970, UTC

ASCII, lines separated by one line feed, none at the end; SHA-256, written as 64 lower-case hexadecimal digits. Whoever changes,
removes or inserts an entry has to write every later entry of that account and its head anew, and whoever has noted one head
outside sees it. The chain does not keep out somebody who may write all of it; that is what the noted heads are for.

A keyed hash was refused: the key would have to lie beside the data, and an auditor without it could verify nothing. One chain
over all accounts was refused: every transfer of the system would wait for one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

FORM = "dujiang-ledger-entry-1"
GENESIS = "0" * 64
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def minor(amount: Decimal) -> int:
    """An amount in hundredths."""
    return int(amount.scaleb(2))


def canonical(
    before: str,
    account_id: int,
    number: int,
    *,
    transfer_id: int,
    amount: Decimal,
    balance: Decimal,
    posted_at: datetime,
) -> bytes:
    """The bytes that the hash of an entry covers."""
    moment = (posted_at - EPOCH) // MICROSECOND
    fields = (FORM, before, account_id, number, transfer_id, minor(amount), minor(balance), moment)
    return "\n".join(map(str, fields)).encode("ascii")


def link(
    before: str,
    account_id: int,
    number: int,
    *,
    transfer_id: int,
    amount: Decimal,
    balance: Decimal,
    posted_at: datetime,
) -> str:
    """The hash of an entry."""
    said = canonical(
        before, account_id, number, transfer_id=transfer_id, amount=amount, balance=balance, posted_at=posted_at
    )
    return sha256(said).hexdigest()


@dataclass(slots=True)
class Walk:
    """A walk along one account's entries, in the order of their numbers.

    Attributes:
        account_id: Whose.
        number: Of the last entry that was right.
        head: Its hash.
        balance: After it.
        broken: Number and fault of the first entry that is wrong; None while all are right.
    """

    account_id: int
    number: int = 0
    head: str = GENESIS
    balance: Decimal = Decimal("0.00")
    broken: tuple[int, str] | None = None

    def along(self, rows: Iterable[Any]) -> None:
        """Go on over rows of `ledger_entry`; stops at the first that is wrong."""
        for row in rows:
            if self.broken is not None:
                return
            fault = self.fault(row)
            if fault:
                self.broken = (row.number, fault)
            else:
                self.number, self.head, self.balance = row.number, row.hash, row.balance

    def fault(self, row: Any) -> str:
        """What is wrong with the next entry; empty when nothing is."""
        if row.number != self.number + 1:
            return f"entry {self.number + 1} is missing"
        if row.balance != self.balance + row.amount:
            return f"its balance is {row.balance}, and {self.balance} and {row.amount} make {self.balance + row.amount}"
        own = link(
            self.head,
            self.account_id,
            row.number,
            transfer_id=row.transfer_id,
            amount=row.amount,
            balance=row.balance,
            posted_at=row.posted_at,
        )
        return "" if row.hash == own else "its hash is not that of its fields and of the entry before"

    def end(self, entries: int, head: str, balance: Decimal) -> None:
        """Compare with what the account says of its last entry."""
        if self.broken is None and (self.number, self.head, self.balance) != (entries, head, balance):
            self.broken = (self.number + 1, f"the account says {entries} entries with a balance of {balance}")
