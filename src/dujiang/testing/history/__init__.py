"""History: what the clients of a system asked for and got, and checkers that find what no promise allows.

    history = History(folder / "client-1.jsonl")
    number = history.invoke("client-1", "enqueue", key="orders", value="o-17", at=monotonic())
    ...                                                  send it, and wait
    history.ok(number, at=monotonic())                   or .fail(...), or .info(...): nobody knows

    for anomaly in check_total_queue(history):
        print(anomaly)

Every `check_x(history, ...)` is a pure function from operations to a list of anomalies, empty when all is well. A history is
any iterable of operations, so a part of one is judged by picking it: `check_bank(o for o in history if o.key == "eu")`.
record.py says what is recorded and when; the module of each checker what it promises, what it costs, and what it cannot see.

No checker invents an anomaly: whatever an unknown outcome (`info`) may explain, it explains. The price is that a history full
of unknown outcomes proves little; `undecided` says so where it matters.
"""

from dujiang.testing.history.anomaly import UNDECIDED, Anomaly
from dujiang.testing.history.cycles import Isolation, check_list_append
from dujiang.testing.history.fork import check_long_fork
from dujiang.testing.history.linear import IMPOSSIBLE, Lock, Register, Sequential, check_linearizable
from dujiang.testing.history.orders import check_key_order
from dujiang.testing.history.queues import check_total_queue
from dujiang.testing.history.record import History, HistoryDamaged, HistoryRefused, Operation, Outcome
from dujiang.testing.history.sessions import Staleness, check_sessions, check_staleness, staleness
from dujiang.testing.history.sets import check_set_full
from dujiang.testing.history.timing import (
    Fault,
    Latency,
    Phase,
    Recovery,
    Window,
    availability,
    check_recovery,
    latencies,
    recoveries,
)
from dujiang.testing.history.totals import check_bank, check_counter, check_unique_ids

__all__ = [
    "IMPOSSIBLE",
    "UNDECIDED",
    "Anomaly",
    "Fault",
    "History",
    "HistoryDamaged",
    "HistoryRefused",
    "Isolation",
    "Latency",
    "Lock",
    "Operation",
    "Outcome",
    "Phase",
    "Recovery",
    "Register",
    "Sequential",
    "Staleness",
    "Window",
    "availability",
    "check_bank",
    "check_counter",
    "check_key_order",
    "check_linearizable",
    "check_list_append",
    "check_long_fork",
    "check_recovery",
    "check_sessions",
    "check_set_full",
    "check_staleness",
    "check_total_queue",
    "check_unique_ids",
    "latencies",
    "recoveries",
    "staleness",
]
