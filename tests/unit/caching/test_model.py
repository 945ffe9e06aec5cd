"""The protocol of the cache, walked at random: with all its rules it holds, without any one of them it breaks."""

from __future__ import annotations

import pytest

from tests.unit.caching.model import RULES, Broken, World

STEPS = 2_000


def walks(seeds: range, rules: frozenset[str] = RULES) -> tuple[int, int]:
    """Walk one world for each seed; how often something was given from a cache, and taken from the shared one."""
    given = taken = 0
    for seed in seeds:
        world = World(seed, rules)
        world.walk(STEPS)
        given += world.given
        taken += world.taken
    return given, taken


def test_nothing_outdated_is_given_in_two_hundred_thousand_steps() -> None:
    """Two processes and what they share, lost and late looks, pauses, kills, a cut log, a server that crashes, little memory.

    No promise is broken, and both levels serve.
    """
    given, taken = walks(range(100))

    assert given > 2_000
    assert taken > 200


@pytest.mark.proof
def test_nothing_outdated_is_given_in_ten_million_steps() -> None:
    """The same for longer."""
    given, taken = walks(range(1_000, 6_000))

    assert given > 100_000
    assert taken > 10_000


@pytest.mark.parametrize("rule", sorted(RULES))
def test_without_a_rule_the_walk_finds_the_fault(rule: str) -> None:
    """Each rule is needed: a world without it breaks a promise within two million steps."""
    with pytest.raises(Broken):
        walks(range(1_000), RULES - {rule})
