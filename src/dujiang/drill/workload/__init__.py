"""Workload: calls that the drill makes by itself, from the types of the handlers.

    handlers' types ──► contract.py ──► pool.py (strategies.py in another process) ──► Workload
                         flows, schemas     52 valid requests for each flow, once        │ request(flow, draw, memory)
                                                                                         ▼
    coverage.py ◄── status ◄── answer ◄── the simulated cluster ◄──────────────────── Request
    memory.py   ◄── ids    ◄──┘  fills the slots of later requests

Where a value comes from, in this order: examples and choices that the author gave; ids and keys that earlier answers
taught, chained by name; the type itself, within its limits. Most requests should succeed and few ids should be in use,
because a handler that refuses or has its rows for itself shows nothing under faults. A flow without a single 2xx fails the
drill with the most frequent refusal and what helps against it.

Every choice is one `draw(label, high)` of the simulator with 0 as the simplest, so that a failing schedule shrinks by
lowering draws. tests/unit/drill/workload holds all of it, and drives the shop.
"""

from __future__ import annotations

from dujiang.drill.workload.contract import RUN, Flow, flows_of, readers_of
from dujiang.drill.workload.coverage import Coverage, FlowNotExercised
from dujiang.drill.workload.memory import Memory
from dujiang.drill.workload.pool import HypothesisMissing
from dujiang.drill.workload.request import Request
from dujiang.drill.workload.workload import Workload

__all__ = [
    "RUN",
    "Coverage",
    "Flow",
    "FlowNotExercised",
    "HypothesisMissing",
    "Memory",
    "Request",
    "Workload",
    "flows_of",
    "readers_of",
]
