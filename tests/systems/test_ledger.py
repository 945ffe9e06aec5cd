"""The ledger's own tests, which are shipped with it and copied by `dujiang new --from ledger`, on the stores of this folder."""

from __future__ import annotations

from dujiang.systems.ledger.tests.test_chain import (
    test_a_removed_entry_is_found,
    test_the_canonical_form_is_the_documented_one,
    test_the_database_refuses_to_change_an_entry,
    test_the_first_changed_entry_is_found,
)
from dujiang.systems.ledger.tests.test_crowd import TestCrowd
from dujiang.systems.ledger.tests.test_ledger import TestHolds, TestRefunds, TestStatement, TestTransfers
from dujiang.systems.ledger.tests.test_provider import TestEvents, TestSettlement, TestSignature

__all__ = [
    "TestCrowd",
    "TestEvents",
    "TestHolds",
    "TestRefunds",
    "TestSettlement",
    "TestSignature",
    "TestStatement",
    "TestTransfers",
    "test_a_removed_entry_is_found",
    "test_the_canonical_form_is_the_documented_one",
    "test_the_database_refuses_to_change_an_entry",
    "test_the_first_changed_entry_is_found",
]
