"""Dujiang: you write the domain; it supplies the production architecture, and proves that it holds.

    from dujiang import App, Event, Module, Tx, key

The public face is exactly `__all__`; api.txt tracks it. Names load when they are first used, so that importing the
package costs little more than importing Pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dujiang.app import App
    from dujiang.app.attach import Transaction
    from dujiang.app.runtime import Runtime
    from dujiang.data.transaction import Stale
    from dujiang.data.types import Id, Instant, Json, Model, Money, Scale
    from dujiang.gateway.client import Client
    from dujiang.jobs.enqueue import JobRef
    from dujiang.jobs.job import Job
    from dujiang.jobs.view import JobView
    from dujiang.kernel.context import now, random, sleep
    from dujiang.kernel.errors import DujiangError, Refusal
    from dujiang.locking.lock import Held, lock
    from dujiang.locking.port import LockBusy, LockLost
    from dujiang.messaging.call import Call
    from dujiang.messaging.message import Event, key
    from dujiang.messaging.tx import Read, Tx
    from dujiang.module import Module
    from dujiang.resilience.retry import Retry, Snooze
    from dujiang.saga.definition import Saga, Step, Wait
    from dujiang.saga.outcome import Failed, Ok, Unknown
    from dujiang.saga.view import SagaView, saga_of
    from dujiang.settings import Settings
    from dujiang.telemetry.crash import sometimes

HOME = {
    "Call": "dujiang.messaging.call",
    "Client": "dujiang.gateway.client",
    "DujiangError": "dujiang.kernel.errors",
    "Event": "dujiang.messaging.message",
    "Failed": "dujiang.saga.outcome",
    "Held": "dujiang.locking.lock",
    "Id": "dujiang.data.types",
    "Instant": "dujiang.data.types",
    "Job": "dujiang.jobs.job",
    "JobRef": "dujiang.jobs.enqueue",
    "JobView": "dujiang.jobs.view",
    "Json": "dujiang.data.types",
    "LockBusy": "dujiang.locking.port",
    "LockLost": "dujiang.locking.port",
    "Model": "dujiang.data.types",
    "Module": "dujiang.module",
    "Money": "dujiang.data.types",
    "Ok": "dujiang.saga.outcome",
    "Read": "dujiang.messaging.tx",
    "Refusal": "dujiang.kernel.errors",
    "Retry": "dujiang.resilience.retry",
    "Runtime": "dujiang.app.runtime",
    "Saga": "dujiang.saga.definition",
    "SagaView": "dujiang.saga.view",
    "Scale": "dujiang.data.types",
    "Settings": "dujiang.settings",
    "Snooze": "dujiang.resilience.retry",
    "Stale": "dujiang.data.transaction",
    "Step": "dujiang.saga.definition",
    "Transaction": "dujiang.app.attach",
    "Tx": "dujiang.messaging.tx",
    "Unknown": "dujiang.saga.outcome",
    "Wait": "dujiang.saga.definition",
    "key": "dujiang.messaging.message",
    "lock": "dujiang.locking.lock",
    "now": "dujiang.kernel.context",
    "random": "dujiang.kernel.context",
    "saga_of": "dujiang.saga.view",
    "sleep": "dujiang.kernel.context",
    "sometimes": "dujiang.telemetry.crash",
    "App": "dujiang.app",
}

__all__ = [
    "App",
    "Call",
    "Client",
    "DujiangError",
    "Event",
    "Failed",
    "Held",
    "Id",
    "Instant",
    "Job",
    "JobRef",
    "JobView",
    "Json",
    "LockBusy",
    "LockLost",
    "Model",
    "Module",
    "Money",
    "Ok",
    "Read",
    "Refusal",
    "Retry",
    "Runtime",
    "Saga",
    "SagaView",
    "Scale",
    "Settings",
    "Snooze",
    "Stale",
    "Step",
    "Transaction",
    "Tx",
    "Unknown",
    "Wait",
    "key",
    "lock",
    "now",
    "random",
    "saga_of",
    "sleep",
    "sometimes",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    home = HOME.get(name)
    if home is None:
        raise AttributeError(f"dujiang has no {name!r}")
    found = globals()[name] = getattr(importlib.import_module(home), name)
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
