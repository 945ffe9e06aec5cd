"""Ledger: accounts, transfers between them, holds, refunds, and a chain of entries that nobody changes.

    POST /api/v1/transfers ──┐                           ┌──► transfer, two entries, two balances, TransferPosted
    POST /api/v1/holds ──────┤  up to 64 that wait        ├──► hold, and the job that ends it
    POST /api/v1/captures ───┼──► at the same moment: ────┤
    POST /api/v1/voids ──────┤  ONE transaction           └──► each refusal its own
    POST /api/v1/refunds ────┘
    POST /api/v1/provider/events      signed by the provider: money that came in, or was taken back
    POST /_dj/ledger/settlements      the provider's file beside our books: a job with a report

Who asks is said by `user_id`, which is believed as it stands, until sign-in is there: put the ledger behind something
that has checked it. An account that is not the caller's is unknown to him.
"""

from __future__ import annotations

from dujiang import App
from dujiang.systems.ledger import laws, settlement, transfers
from dujiang.systems.ledger.accounts import ledger
from dujiang.systems.ledger.provider import ProviderKeys

app = App(modules=[ledger], title="Ledger", provide={ProviderKeys: ProviderKeys.of()})

__all__ = ["ProviderKeys", "app", "laws", "ledger", "settlement", "transfers"]
