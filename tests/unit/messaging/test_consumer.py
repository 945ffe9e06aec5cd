"""Which claims of a consumer may share a transaction."""

from __future__ import annotations

from dujiang.messaging.message import Message
from dujiang.messaging.work import Claim, belong_together


def claim(*, lease: int = 1, tenant: str | None = None) -> Claim:
    """A claim under a lease, of a tenant."""
    headers = {} if tenant is None else {"tenant": tenant}
    return Claim(1, 1, 0, lease, Message(1, bytes(16), "Told", None, 0, headers, b"{}"))


def test_claims_of_two_leases_never_share_a_transaction() -> None:
    """One lease fences a transaction: with two in it, its end would fail for the living one too."""
    assert belong_together(claim(lease=2), claim(lease=2))
    assert not belong_together(claim(lease=2), claim(lease=3))


def test_claims_of_two_tenants_never_share_a_transaction() -> None:
    """What a handler publishes carries the tenant of its transaction."""
    assert belong_together(claim(tenant="a"), claim(tenant="a"))
    assert not belong_together(claim(tenant="a"), claim(tenant="b"))
