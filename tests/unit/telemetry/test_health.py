"""Health: what keeps a process, what sends it requests, and what a stranger may read about it."""

from __future__ import annotations

import asyncio

import pytest

from dujiang.kernel.tasks import all_of
from dujiang.telemetry import health as subject
from dujiang.telemetry.health import Health


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def now_us(self) -> int:
        return int(self.at * 1e6)

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


class Database:
    """A thing that can be well, broken or silent, and counts who asked."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.silent = False
        self.asked = 0

    async def ask(self) -> str | None:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return "sqlite"


@pytest.fixture
def clock() -> Hand:
    """A clock moved by hand."""
    return Hand()


@pytest.fixture
def database() -> Database:
    """What is checked."""
    return Database()


@pytest.fixture
def health(clock: Hand, database: Database) -> Health:
    """A ready copy with one check."""
    made = Health(clock)
    made.add("database", database.ask)
    made.state = "ready"
    return made


class TestReady:
    async def test_all_well(self, health: Health) -> None:
        """Ready, with each check and its words."""
        assert await health.ready() == (
            True,
            {"status": "ready", "checks": {"database": {"status": "ok", "detail": "sqlite"}}},
        )

    @pytest.mark.parametrize("state", ["starting", "stopping"])
    async def test_nobody_is_sent_before_and_after(self, health: Health, state: subject.State) -> None:
        """A copy that starts or stops is not ready even though every check is well; it stays alive."""
        health.state = state

        ready, page = await health.ready()

        assert (ready, page["status"]) == (False, state)
        assert page["checks"]["database"]["status"] == "ok"
        assert (await health.live())[0]

    async def test_a_failed_check_shows_its_code_and_nothing_else(
        self, health: Health, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The page needs no login: the error's words stay in the log, where they are said once per change."""
        database.error = ConnectionError("no route to 10.0.0.7 for app:hunter2")

        ready, page = await health.ready()

        assert (ready, page) == (
            False,
            {"status": "failed", "checks": {"database": {"status": "failed", "code": "error"}}},
        )
        assert [record.getMessage() for record in caplog.records] == [
            "health check database fails: no route to 10.0.0.7 for app:hunter2"
        ]

    async def test_a_silent_check_fails_in_time(
        self, health: Health, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A check that does not answer counts as failed, and the others are shown."""
        monkeypatch.setattr(subject, "LIMIT_S", 0.05)
        other = Database()
        health.add("broker", other.ask)
        database.silent = True

        async with asyncio.timeout(5):
            ready, page = await health.ready()

        assert not ready
        assert page["checks"]["database"] == {"status": "failed", "code": "no_answer"}
        assert page["checks"]["broker"]["status"] == "ok"

    def test_a_check_has_one_second(self) -> None:
        """The limit is part of the contract with whoever probes."""
        assert subject.LIMIT_S == 1.0

    async def test_a_crowd_of_probes_asks_once(self, health: Health, database: Database, clock: Hand) -> None:
        """Fifty at once are one question; after the outcome is stale it is asked again and may have changed."""
        answers = await all_of(*(health.ready() for _ in range(50)))
        asked = database.asked
        clock.at += subject.FRESH_S
        database.error = RuntimeError()

        later, _ = await health.ready()

        assert asked == 1
        assert all(ready for ready, _ in answers)
        assert not later
        assert database.asked == 2

    async def test_a_change_of_state_is_seen_at_once(self, health: Health) -> None:
        """Only the checks' outcomes are kept, never the state."""
        await health.ready()
        health.state = "stopping"

        assert (await health.ready())[0] is False

    async def test_recovery_is_seen_and_said(
        self, health: Health, database: Database, clock: Hand, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Failing twice is said once, and so is being well again."""
        database.error = RuntimeError("down")
        for _ in range(2):
            await health.ready()
            clock.at += 1
        database.error = None

        ready, _ = await health.ready()

        assert ready
        assert [record.getMessage() for record in caplog.records] == [
            "health check database fails: down",
            "health check database is well again",
        ]

    async def test_a_caller_that_goes_away_stops_nobody_else(self, health: Health, database: Database) -> None:
        """A probe that hangs up does not leave the page locked."""
        database.silent = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await health.ready()
        database.silent = False

        assert (await health.ready())[0]


class TestLive:
    async def test_a_database_that_is_down_restarts_nobody(self, health: Health, database: Database) -> None:
        """`live` neither counts nor even asks what a restart would not cure."""
        database.error = RuntimeError("down")

        assert await health.live() == (True, {"status": "alive", "checks": {}})
        assert database.asked == 0

    async def test_what_a_restart_cures_counts(self, health: Health) -> None:
        """A check marked `live` fails both pages."""
        broken = Database()
        broken.error = RuntimeError("stuck")
        health.add("writer", broken.ask, live=True)

        alive, page = await health.live()

        assert (alive, page) == (
            False,
            {"status": "failed", "checks": {"writer": {"status": "failed", "code": "error"}}},
        )
        assert not (await health.ready())[0]

    async def test_a_removed_check_is_gone(self, health: Health, database: Database) -> None:
        """After `remove` nobody asks it; removing twice is no error."""
        health.remove("database")
        health.remove("database")

        assert await health.ready() == (True, {"status": "ready", "checks": {}})
        assert database.asked == 0
