"""The planted applications are correct as they stand, and a bug that needs no fault shows in a calm life."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.planted.bug import BOARD, COUPONS, LEDGER, PAYMENTS, ROUNDS, SEATS, SHOP, TRIPS, WALLET, Bug
from bench.planted.bugs import BUGS
from bench.planted.calm import LIVES, lived
from bench.planted.plant import planted

RIGHT = {
    SHOP: [201, 409, 200, 422],
    WALLET: [201, 422, 409, 201, 409, 422],
    COUPONS: [201, 409, 201, 409],
    SEATS: [201, 409, 201, 409, 201, 409],
    ROUNDS: [204, 422],
    LEDGER: [201, 201, 201, 201, 422],
    BOARD: [404, 200, 200, 404, 422, 200],
    PAYMENTS: [201, 201, 201, 201, 409, 400],
    TRIPS: [201, 201, 201, 201],
}
OPEN = [bug for bug in BUGS if bug.shows.startswith("No fault needed") and bug.app in LIVES]


pytestmark = pytest.mark.proof  # A life of each application, many times over, takes minutes.


@pytest.mark.parametrize("app", RIGHT)
async def test_a_correct_application_answers_rightly_and_keeps_its_laws(app: str) -> None:
    """Every law holds, nothing is dead, and each refusal is the one that its request deserves."""
    assert await lived(app) == {"statuses": RIGHT[app], "laws": [], "dead": 0}


@pytest.mark.parametrize("bug", OPEN, ids=[bug.name for bug in OPEN])
def test_a_bug_that_needs_no_fault_shows_in_a_calm_life(bug: Bug) -> None:
    """With the bug the same requests end in other answers, a broken law or a dead letter."""
    with planted(bug) as planting:
        done = planting.run("-m", "bench.planted.calm", bug.app, timeout_s=100)

    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen != {"statuses": RIGHT[bug.app], "laws": [], "dead": 0}


def test_most_bugs_hide_from_a_calm_life() -> None:
    """A drill that finds only what any test finds would prove little."""
    assert 5 <= len(OPEN) < len(BUGS) / 4
