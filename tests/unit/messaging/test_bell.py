"""Bells: rings that travel to other processes, and when none does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dujiang.kernel.tasks import Tasks
from dujiang.messaging.bell import Bells


def ringing() -> tuple[Bells, Tasks, list[str]]:
    """Bells over a database that only remembers what it was told to notify."""
    sent: list[str] = []

    async def notify(payload: str) -> None:
        sent.append(payload)

    database: Any = SimpleNamespace(capabilities=SimpleNamespace(listen=True), notify=notify)
    tasks = Tasks("node")
    return Bells(database, tasks), tasks, sent


class TestFar:
    async def test_many_rings_at_once_travel_as_one(self) -> None:
        """Names in order, joined by commas."""
        bells, tasks, sent = ringing()
        for name in ("work", "outbox", "work"):
            bells.ring_far(name)
        await tasks.wait_idle()

        assert sent == ["outbox,work"]

    async def test_a_stopping_process_rings_here_alone_and_without_an_error(self) -> None:
        """A write that commits while its process stops is answered with what it did: the ring after it cannot fail it."""
        bells, tasks, sent = ringing()
        assert not await bells.wait("outbox", 0.0)  # From here on somebody has waited for this name.
        await tasks.close()
        bells.ring_far("outbox")

        assert await bells.wait("outbox", 60.0)
        assert sent == []
