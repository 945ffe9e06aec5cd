"""Brokers: over which one the events of a run go: the broker in the database, or a model of RabbitMQ.

    --broker sql        the broker in the database, in every run
    --broker rabbitmq   the model, in every random run
    --broker both       the model in three random runs of ten, chosen by the seed

An application does not know its broker, so what it promises must hold on each. The sweep stays on the database: a crash
point is a place in a handler or in the platform, and the places of the model's carrier come with the random runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    from dujiang.drill.run import Scenario
    from dujiang.drill.world import Cluster

SQL, RABBITMQ, BOTH = "sql", "rabbitmq", "both"
CHOICES = (SQL, RABBITMQ, BOTH)
SETTINGS = {SQL: "database:", RABBITMQ: "simulated:"}
SHARE = 0.3


def broker_of(scenario: Scenario, seed: str) -> str:
    """Over which broker a run goes, `sql` or `rabbitmq`; empty = as its cluster says."""
    if scenario.kind != "random":
        return ""
    if scenario.broker == BOTH:
        return RABBITMQ if SeededEntropy(f"{seed}/broker").random() < SHARE else SQL
    return scenario.broker


def standing_for(cluster: Cluster, scenario: Scenario, seed: str) -> Cluster:
    """The cluster in which a run lives."""
    chosen = broker_of(scenario, seed)
    return replace(cluster, broker=SETTINGS[chosen]) if chosen else cluster
