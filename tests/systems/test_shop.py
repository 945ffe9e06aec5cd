"""The shop's own tests, which are shipped with it and copied by `dujiang new --from shop`, on the stores of this folder."""

from __future__ import annotations

from dujiang.systems.shop.tests.test_shop import TestCrowd, TestIdempotency, TestPlacing, TestTwoCopies

__all__ = ["TestCrowd", "TestIdempotency", "TestPlacing", "TestTwoCopies"]
