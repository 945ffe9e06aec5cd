"""Bug: one realistic mistake in one place, and the promise that it breaks."""

from __future__ import annotations

from dataclasses import dataclass

SHOP = "dujiang.systems.shop:app"
WALLET = "bench.planted.apps.wallet:app"
COUPONS = "bench.planted.apps.coupons:app"
SEATS = "bench.planted.apps.seats:app"
LEDGER = "bench.planted.apps.ledger:app"
ROUNDS = "bench.planted.apps.rounds:app"
BOARD = "bench.planted.apps.board:app"
PAYMENTS = "bench.planted.apps.payments:app"
STOCK = "bench.planted.apps.stock:app"
TRIPS = "bench.planted.apps.trips:app"
BOOKS = "dujiang.systems.ledger:app"


@dataclass(frozen=True, kw_only=True)
class Bug:
    """A planted bug.

    Attributes:
        name: Unique, in snake_case words.
        says: What the one who wrote it had in mind.
        where: The file, relative to the repository.
        old: The right text; it stands in the file exactly once.
        new: The wrong text in its place.
        app: The application whose drill must find it, as `module:attribute`.
        breaks: The promise that a user sees broken.
        shows: The schedule under which it shows: which interleaving, fault or kill.
        needs: What a run must have besides the embedded store: `many_writers` a store with several writing connections,
            `writer` the embedded store's own writer below the drill; empty = nothing.
        author: Who wrote it: `blind` = without knowing how the drill looks for bugs.
    """

    name: str
    says: str
    where: str
    old: str
    new: str
    app: str
    breaks: str
    shows: str
    needs: str = ""
    author: str = "blind"
