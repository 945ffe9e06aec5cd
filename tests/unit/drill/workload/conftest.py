"""Workloads that several tests look at and none changes: making one starts a process."""

from __future__ import annotations

import pytest

from dujiang.drill.workload import Workload
from dujiang.systems.shop import app as shop
from tests.unit.drill.workload.apps import bank


@pytest.fixture(scope="session")
def workload_of_bank() -> Workload:
    """The workload of `apps.bank`."""
    return Workload(bank())


@pytest.fixture(scope="session")
def workload_of_shop() -> Workload:
    """The workload of the shop; its coverage is not to be looked at."""
    return Workload(shop)
