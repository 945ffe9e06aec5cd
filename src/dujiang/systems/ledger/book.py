"""Book: the accounts that one transaction has locked, and everything that it does to them.

    calls that wait together ──► lock their accounts, in the order of ids      one SELECT ... FOR UPDATE
                             ──► read the transfers they name                  one SELECT, behind the locks
                             ──► each call in turn, in memory: checked whole, then done; a refusal leaves no trace
                             ──► transfers, entries, accounts                  one statement of each kind

An account that everybody pays is a row that everybody waits for. What a transaction costs while it has the row decides how
many transfers a second there can be, and that is round trips and one commit. So 64 calls that wait at the same moment share
them (`batch=64`), the running balances, numbers and hashes are computed in memory, and the rows are written as arrays.

Every way that changes a transfer holds the locks of both its accounts first, and reads its state behind them. The order of
ids makes a deadlock of A->B and B->A impossible; the lock makes capture, void and expiry of one hold follow each other, so
that one wins and the others see it.

Refused: sub-balances of a hot account, to be added up later. They bring no more than the batches, and `available` would
then be a guess while somebody pays. Refused too: the condition inside an UPDATE, as the shop does it. An entry needs the
balance, number and hash before it, so the row is needed anyhow.

tests/test_crowd.py has 64 clients on one account; bench/ledger.py measures it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import bindparam, insert, select, update

from dujiang import Refusal
from dujiang.systems.ledger.chain import link
from dujiang.systems.ledger.contract import HoldPlaced, HoldReleased, TransferPosted
from dujiang.systems.ledger.refusals import (
    AboveHold,
    AboveRefundable,
    CeilingReached,
    HoldClosed,
    InsufficientFunds,
    NotRefundable,
    SameAccount,
    UnknownAccount,
    UnknownTransfer,
)
from dujiang.systems.ledger.rows import (
    ZERO,
    Account,
    Transfer,
    Wish,
    balance_of,
    change_of,
    kept_in,
    same,
    scaled,
    thawed,
)
from dujiang.systems.ledger.tables import account, entry, transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from decimal import Decimal

    from dujiang import Event, Tx

T = TypeVar("T")

# Built once, so that a request only binds values.
LOCKED = (
    select(account)
    .where(account.c.account_id.in_(bindparam("ids", expanding=True)))
    .order_by(account.c.account_id)
    .with_for_update()
)
LEGS = select(transfer.c.debit, transfer.c.credit).where(transfer.c.transfer_id.in_(bindparam("ids", expanding=True)))
BY_ID = select(transfer).where(transfer.c.transfer_id.in_(bindparam("ids", expanding=True)))
BY_REFERENCE = select(transfer).where(
    transfer.c.debit.in_(bindparam("ids", expanding=True)),
    transfer.c.reference.in_(bindparam("references", expanding=True)),
)
ADD_TRANSFER = insert(transfer)
ADD_ENTRY = insert(entry)
CHANGE_TRANSFER = (
    update(transfer)
    .where(transfer.c.transfer_id == bindparam("of"))
    .values({name: bindparam(f"new_{name}") for name in ("state", "posted", "refunded", "closed_at")})
)
CHANGE_ACCOUNT = (
    update(account)
    .where(account.c.account_id == bindparam("of"))
    .values({name: bindparam(f"new_{name}") for name in ("balance", "held", "incoming", "entries", "head", "last_at")})
)


class Book:
    """See the module. Made by `opened` or `opened_at`, ended by `write`.

    Attributes:
        accounts: Those that are locked, by id.
        transfers: Those that were read or made, by id.
    """

    def __init__(self, tx: Tx, accounts: dict[int, Account]) -> None:
        self.accounts = accounts
        self.transfers: dict[int, Transfer] = {}
        self._tx = tx
        self._by_name: dict[tuple[int, str, str, str], Transfer] = {}
        self._made: dict[int, Transfer] = {}
        self._changed: dict[int, Transfer] = {}
        self._touched: dict[int, Account] = {}
        self._entries: list[dict[str, Any]] = []
        self._events: list[Event] = []

    def __repr__(self) -> str:
        return f"<Book of {len(self.accounts)} accounts, {len(self._entries)} new entries>"

    # Opening: locks first, then what they protect -----------------------------------------------------------------

    @classmethod
    async def opened(cls, tx: Tx, ids: Iterable[int], references: Iterable[str] = ()) -> Book:
        """Lock accounts in the order of their ids, and read what was asked for under these references before."""
        wanted, names = sorted(set(ids)), sorted(set(references))
        rows = (await tx.execute(LOCKED, {"ids": wanted})).all()
        book = cls(tx, {row.account_id: Account(*row) for row in rows})
        if names:
            book.know((await tx.execute(BY_REFERENCE, {"ids": wanted, "references": names})).all())
        return book

    @classmethod
    async def opened_at(cls, tx: Tx, transfers: Iterable[int], references: Iterable[str] = ()) -> Book:
        """Lock both accounts of transfers, then read these: what they are is known only behind the locks."""
        ids = sorted(set(transfers))
        legs = (await tx.execute(LEGS, {"ids": ids})).all()
        book = await cls.opened(tx, (leg for row in legs for leg in row), references)
        book.know((await tx.execute(BY_ID, {"ids": ids})).all())
        return book

    def know(self, rows: Iterable[Any]) -> None:
        """Take in rows of `ledger_transfer`."""
        for row in rows:
            found = Transfer(*row)
            self.transfers.setdefault(found.transfer_id, found)
            self._by_name.setdefault(found.name, self.transfers[found.transfer_id])

    # Doing: checked whole, then done ------------------------------------------------------------------------------

    def account(self, account_id: int, owner: str | None = None) -> Account:
        """A locked account, of this owner if one is named. Raises UnknownAccount."""
        found = self.accounts.get(account_id)
        if found is None or (owner is not None and found.owner != owner):
            raise UnknownAccount(f"there is no account {account_id} of yours", account_id=str(account_id))
        return found

    def transfer(self, transfer_id: int, paid: str | None = None) -> Transfer:
        """A transfer; if `paid` is given, one that pays an account of this owner. Raises UnknownTransfer."""
        found = self.transfers.get(transfer_id)
        if found is None or (paid is not None and self.accounts[found.credit].owner != paid):
            raise UnknownTransfer(f"there is no transfer {transfer_id} to you", transfer_id=str(transfer_id))
        return found

    def named(self, debit: int, source: str, kind: str, reference: str) -> Transfer | None:
        """The transfer that was made under a reference, if it was asked for when the book was opened."""
        return self._by_name.get((debit, source, kind, reference))

    def move(self, wish: Wish, owner: str | None = None) -> Transfer:
        """Make a transfer, or find the one that was made under this reference before.

        Raises:
            Refusal: One of the ledger's; nothing was changed.
        """
        debit = self.account(wish.debit, owner)
        before = self.named(wish.debit, wish.source, wish.kind, wish.reference)
        if before is not None:
            return same(before, wish)
        if wish.debit == wish.credit:
            raise SameAccount("a transfer has two accounts", account_id=str(wish.debit))
        credit = self.account(wish.credit)
        self.check(debit, credit, wish)
        now = max(self._tx.now, debit.last_at, credit.last_at)
        made = Transfer(
            transfer_id=self._tx.new_id(),
            source=wish.source,
            reference=wish.reference,
            kind=wish.kind,
            state="pending",
            debit=wish.debit,
            credit=wish.credit,
            currency=wish.currency,
            amount=wish.amount,
            posted=ZERO,
            refunded=ZERO,
            refund_of=wish.refund_of,
            expires_at=wish.expires_at,
            created_at=now,
            closed_at=None,
        )
        self._made[made.transfer_id] = self.transfers[made.transfer_id] = self._by_name[made.name] = made
        if wish.expires_at is None:
            self._post(made, wish.amount)
        else:
            self._hold(made, 1)
            self._events.append(
                HoldPlaced(transfer_id=made.transfer_id, amount=made.amount, expires_at=wish.expires_at)
            )
        return made

    def check(self, debit: Account, credit: Account, wish: Wish) -> None:
        """Raise what speaks against moving or holding an amount between two accounts now."""
        kept_in(debit, wish.currency)
        kept_in(credit, wish.currency)
        scaled(wish.amount, wish.currency)
        thawed(debit)
        thawed(credit)
        if debit.available is not None and wish.amount > debit.available:
            told = f"{wish.amount} {wish.currency} were asked for and {debit.available} are available"
            raise InsufficientFunds(told, available=str(debit.available))
        if credit.ceiling is not None and credit.balance + credit.incoming + wish.amount > credit.ceiling:
            raise CeilingReached(f"account {credit.account_id} may hold no more", account_id=str(credit.account_id))

    def capture(self, transfer_id: int, amount: Decimal | None, paid: str) -> Transfer:
        """Post a hold, whole or in part, and release the rest. Raises a refusal; then nothing was changed."""
        held = self.pending(transfer_id, paid)
        taken = held.amount if amount is None else amount
        if held.expires_at is not None and held.expires_at <= self._tx.now:
            raise HoldClosed(f"the hold expired at {held.expires_at.isoformat()}", state="expired")
        if taken > held.amount:
            raise AboveHold(f"{taken} were asked for and {held.amount} are held", held=str(held.amount))
        scaled(taken, held.currency)
        thawed(self.accounts[held.debit])
        thawed(self.accounts[held.credit])
        self._hold(held, -1)
        self._post(held, taken)
        return held

    def release(self, transfer_id: int, state: Any, paid: str | None = None) -> Transfer:
        """End a hold as voided or expired. Raises a refusal; then nothing was changed."""
        held = self.pending(transfer_id, paid)
        self._hold(held, -1)
        held.state, held.closed_at = state, self._tx.now
        self._changed[transfer_id] = held
        self._events.append(HoldReleased(transfer_id=transfer_id, state=state))
        return held

    def pending(self, transfer_id: int, paid: str | None) -> Transfer:
        """A hold that is open. Raises UnknownTransfer, HoldClosed."""
        found = self.transfer(transfer_id, paid)
        if found.state != "pending":
            raise HoldClosed(f"the transfer is {found.state}", state=found.state)
        return found

    def refund(self, transfer_id: int, source: str, reference: str, amount: Decimal, paid: str | None) -> Transfer:
        """Give a part of a posted transfer back. Raises a refusal; then nothing was changed."""
        first = self.transfer(transfer_id, paid)
        wish = Wish(
            source=source,
            reference=reference,
            kind="refund",
            debit=first.credit,
            credit=first.debit,
            currency=first.currency,
            amount=amount,
            refund_of=transfer_id,
        )
        if self.named(wish.debit, source, wish.kind, reference) is not None:
            return self.move(wish)
        if first.kind == "refund" or first.state != "posted":
            raise NotRefundable(f"a {first.kind} that is {first.state} has nothing to give back", state=first.state)
        left = first.posted - first.refunded
        if amount > left:
            raise AboveRefundable(f"{amount} were asked back and {left} can go back", refundable=str(left))
        made = self.move(wish)
        first.refunded += amount
        self._changed[transfer_id] = first
        return made

    # In memory, where nothing fails any more ----------------------------------------------------------------------

    def _hold(self, held: Transfer, sign: int) -> None:
        debit, credit = self.accounts[held.debit], self.accounts[held.credit]
        debit.held += sign * held.amount
        credit.incoming += sign * held.amount
        self._touched[debit.account_id], self._touched[credit.account_id] = debit, credit

    def _post(self, posted: Transfer, amount: Decimal) -> None:
        debit, credit = self.accounts[posted.debit], self.accounts[posted.credit]
        # One time for both entries, and no account's time runs backwards: a period of a statement is a run of numbers.
        at = max(self._tx.now, debit.last_at, credit.last_at)
        self._enter(debit, posted, -amount, at)
        self._enter(credit, posted, amount, at)
        posted.state, posted.posted, posted.closed_at = "posted", amount, at
        self._changed[posted.transfer_id] = posted
        self._events.append(
            TransferPosted(
                transfer_id=posted.transfer_id,
                debit=debit.account_id,
                credit=credit.account_id,
                currency=posted.currency,
                posted=amount,
                kind=posted.kind,
            )
        )

    def _enter(self, of: Account, posted: Transfer, amount: Decimal, at: datetime) -> None:
        of.balance += amount
        of.entries += 1
        fields: dict[str, Any] = {
            "transfer_id": posted.transfer_id,
            "amount": amount,
            "balance": of.balance,
            "posted_at": at,
        }
        of.head, of.last_at = link(of.head, of.account_id, of.entries, **fields), at
        self._touched[of.account_id] = of
        self._entries.append({"account_id": of.account_id, "number": of.entries, **fields, "hash": of.head})

    # Writing ------------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Write what was done, publish what happened, and forget the answers that are no longer true."""
        changed = [each for each in self._changed.values() if each.transfer_id not in self._made]
        await self._tx.execute(ADD_TRANSFER, [asdict(each) for each in self._made.values()])
        await self._tx.execute(CHANGE_TRANSFER, [change_of(each) for each in changed])
        await self._tx.execute(ADD_ENTRY, self._entries)
        await self._tx.execute(CHANGE_ACCOUNT, [balance_of(each) for each in self._touched.values()])
        self._tx.publish(*self._events)
        for account_id in self._touched:
            self._tx.forget(f"account:{account_id}")
        for transfer_id in {**self._made, **self._changed}:
            self._tx.forget(f"transfer:{transfer_id}")


def each_of(bodies: Sequence[T], work: Callable[[T], Transfer]) -> list[Any]:
    """The view or the refusal of each member of a batch."""
    answers: list[Any] = []
    for body in bodies:
        try:
            answers.append(work(body).view())
        except Refusal as refusal:
            answers.append(refusal)
    return answers
