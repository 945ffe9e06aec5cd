"""Bugs in the ledger: locks, pairs of entries, holds and refunds."""

from __future__ import annotations

from bench.planted.bug import BOOKS, Bug

BOOK = "src/dujiang/systems/ledger/book.py"
TRANSFERS = "src/dujiang/systems/ledger/transfers.py"
AUTHOR = "author"

MONEY = (
    Bug(
        name="hold_read_before_its_lock",
        says="The accounts of a hold are in its row, so one SELECT reads both and the second one is saved.",
        where=BOOK,
        old="""        legs = (await tx.execute(LEGS, {"ids": ids})).all()
        book = await cls.opened(tx, (leg for row in legs for leg in row), references)
        book.know((await tx.execute(BY_ID, {"ids": ids})).all())
""",
        new="""        rows = (await tx.execute(BY_ID, {"ids": ids})).all()
        legs = (leg for row in rows for leg in (row.debit, row.credit))
        book = await cls.opened(tx, legs, references)
        book.know(rows)
""",
        app=BOOKS,
        breaks="A hold ends once: captured, voided or expired.",
        shows="A capture commits between the expiry's read of the hold and its locks: the expiry still sees it pending,"
        " and releases what was taken.",
        author=AUTHOR,
    ),
    Bug(
        name="balance_checked_without_lock",
        says="READ COMMITTED shows what is committed, and the primary key of the entries keeps two from being the same one.",
        where=BOOK,
        old="""    .order_by(account.c.account_id)
    .with_for_update()
""",
        new="""    .order_by(account.c.account_id)
""",
        app=BOOKS,
        breaks="What is available is checked and taken in one.",
        shows="Two holds on one account read the same `held`, and the second one writes its own sum over the first one's.",
        author=AUTHOR,
    ),
    Bug(
        name="entry_without_its_pair",
        says="The house's side of a payment is known from the customer's; half the entries are enough.",
        where=BOOK,
        old="""        self._enter(credit, posted, amount, at)
""",
        new="""        if credit.owner:
            self._enter(credit, posted, amount, at)
""",
        app=BOOKS,
        breaks="Debits and credits of each currency are equal at every commit.",
        shows="No fault needed: the provider takes a payment back, and the money comes from an account and goes nowhere.",
        author=AUTHOR,
    ),
    Bug(
        name="rest_of_a_hold_stays_held",
        says="A capture releases what it takes.",
        where=BOOK,
        old="""        self._hold(held, -1)
        self._post(held, taken)
""",
        new="""        self.accounts[held.debit].held -= taken
        self.accounts[held.credit].incoming -= taken
        self._post(held, taken)
""",
        app=BOOKS,
        breaks="What an account has set aside is what its pending transfers say.",
        shows="No fault needed: a part of a hold is captured, and the rest is neither free nor held by anything.",
        author=AUTHOR,
    ),
    Bug(
        name="each_refund_bounded_by_itself",
        says="A refund is at most what was posted.",
        where=BOOK,
        old="""        left = first.posted - first.refunded
""",
        new="""        left = first.posted
""",
        app=BOOKS,
        breaks="All refunds of a transfer together are at most what was posted.",
        shows="No fault needed: two refunds of one transfer, each below what was posted and both together above it.",
        author=AUTHOR,
    ),
)
