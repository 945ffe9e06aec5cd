"""Our side of `write` and `embedded`: how to start it and how to count what it wrote. The application is shop.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.orders import Counts
from bench.ours.command import up

if TYPE_CHECKING:
    from bench.processes import Command

OURS_COUNTS = Counts(
    outbox="SELECT count(*) FROM dj_outbox",
    # The one answer that is stored and is no order is the refusal of the check; keys hold placed orders only.
    keys="SELECT count(*) FROM dj_idempotency WHERE status = 201",
)


def serve(app: str, port: int, store: str, *, consuming: bool) -> Command:
    """One server process; `app` is "app" (a transaction per request) or "batched" (requests that wait share one)."""
    return up(f"bench.ours.shop:{app if consuming else f'{app}_alone'}", port, store)
