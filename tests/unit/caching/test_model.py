"""The protocol of the cache, walked at random: with all its rules it holds, without any one of them it breaks."""

from __future__ import annotations

import pytest

from tests.unit.caching.model import RULES, Broken, World

STEPS = 2_000


def walks(seeds: range, rules: frozenset[str] = RULES) -> int:
    """Walk one world for each seed; how often something was given from the cache."""
    given = 0
    for seed in seeds:
        world = World(seed, rules)
        world.walk(STEPS)
        given += world.given
    return given


def test_nothing_outdated_is_given_in_a_hundred_thousand_steps() -> None:
    """Two processes, lost and late looks, pauses, kills, a cut log, little memory: no promise is broken, and caches serve."""
    assert walks(range(50)) > 2_000


@pytest.mark.proof
def test_nothing_outdated_is_given_in_two_million_steps() -> None:
    """The same for longer."""
    assert walks(range(1_000, 2_000)) > 40_000


@pytest.mark.parametrize("rule", sorted(RULES))
def test_without_a_rule_the_walk_finds_the_fault(rule: str) -> None:
    """Each rule is needed: a world without it breaks a promise within four hundred thousand steps."""
    with pytest.raises(Broken):
        walks(range(200), RULES - {rule})
