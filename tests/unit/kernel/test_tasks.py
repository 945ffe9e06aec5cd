"""Tasks have an owner: none outlives it, none fails unseen, and a caller that goes away takes no work along."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator

import pytest

from dujiang.kernel.tasks import Stopping, Tasks, Threads, all_of, ended, outcomes_of, owned


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """An owner that is closed when the test ends."""
    tasks = Tasks("test")
    yield tasks
    await tasks.close()


class Work:
    """Work that a test starts, holds and watches."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.story: list[str] = []

    async def run(self) -> str:
        """Wait for the word, then end; a cancelled run cleans up in two steps."""
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.story.append("cancelled")
            await asyncio.sleep(0)
            self.story.append("clean")
            raise
        self.story.append("done")
        return "answer"

    async def fail(self) -> None:
        """Raise as soon as the word is given."""
        self.started.set()
        await self.go.wait()
        raise OSError("broken")


class TestOwner:
    async def test_a_task_runs_and_is_forgotten_when_it_ends(self, tasks: Tasks) -> None:
        """The owner knows what runs, and its repr says so."""
        work = Work()
        task = tasks.spawn(work.run(), name="one")
        assert repr(tasks) == "<Tasks test: 1 running>"
        assert task.get_name() == "test.one"
        work.go.set()

        assert await task == "answer"
        await tasks.wait_idle()
        assert len(tasks) == 0

    async def test_closing_waits_for_those_that_end_in_time_and_cancels_the_rest(self) -> None:
        """When `close` returns nothing runs, and what was cancelled has cleaned up."""
        tasks, quick, slow = Tasks("test"), Work(), Work()
        quick.go.set()
        tasks.spawn(quick.run(), name="quick")
        tasks.spawn(slow.run(), name="slow")
        await slow.started.wait()
        await tasks.close(grace_s=0.01)

        assert quick.story == ["done"]
        assert slow.story == ["cancelled", "clean"]
        assert repr(tasks) == "<Tasks test: 0 running, closed>"

    async def test_closing_twice_does_nothing_more(self) -> None:
        """The second close returns at once."""
        tasks = Tasks("test")
        await tasks.close()
        await tasks.close(grace_s=60)

        assert len(tasks) == 0

    async def test_a_closed_owner_takes_no_task(self) -> None:
        """The refused work is closed, so that Python warns of nothing."""
        tasks, work = Tasks("test"), Work()
        await tasks.close()

        with pytest.raises(Stopping, match="test is closed and takes no task late"):
            tasks.spawn(work.run(), name="late")
        assert not work.started.is_set()

    async def test_a_task_that_starts_another_while_closing_is_refused(self) -> None:
        """Clean-up cannot start new work behind the owner's back."""
        tasks, refused = Tasks("test"), asyncio.Event()

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                with pytest.raises(Stopping):
                    tasks.spawn(Work().run(), name="second")
                refused.set()

        tasks.spawn(stubborn(), name="first")
        await asyncio.sleep(0)
        await tasks.close()

        assert refused.is_set()
        assert len(tasks) == 0


class TestFailures:
    async def test_an_error_reaches_who_asked_for_it(self) -> None:
        """`on_crash` gets the task's name and its error, once."""
        crashes: list[tuple[str, str]] = []
        tasks = Tasks("test", on_crash=lambda name, error: crashes.append((name, str(error))))
        work = Work()
        work.go.set()
        await ended(tasks.spawn(work.fail(), name="one"))
        await tasks.wait_idle()
        await asyncio.sleep(0)

        assert crashes == [("test.one", "broken")]

    async def test_an_error_that_nobody_asked_for_is_logged(
        self, tasks: Tasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without `on_crash` the log has the name and the error."""
        work = Work()
        work.go.set()
        with caplog.at_level(logging.ERROR, logger="dujiang.tasks"):
            await ended(tasks.spawn(work.fail(), name="one"))
            await asyncio.sleep(0)

        assert "task test.one ended with an error" in caplog.text
        assert "OSError: broken" in caplog.text

    async def test_a_cancelled_task_is_no_crash(self) -> None:
        """Cancelling is how a task is asked to end."""
        crashes: list[str] = []
        tasks = Tasks("test", on_crash=lambda name, _: crashes.append(name))
        tasks.spawn(Work().run(), name="one")
        await asyncio.sleep(0)
        await tasks.close()

        assert crashes == []


class TestOwnedWork:
    async def test_the_caller_gets_the_answer(self, tasks: Tasks) -> None:
        """While the caller stays it is as if it had done the work itself."""
        work = Work()
        work.go.set()

        assert await owned(tasks, work.run(), name="one") == "answer"

    async def test_a_caller_that_goes_away_does_not_take_the_work_along(self, tasks: Tasks) -> None:
        """The caller is cancelled at once; the work runs to its end in the owner's hands."""
        work = Work()
        caller = asyncio.ensure_future(owned(tasks, work.run(), name="one"))
        await work.started.wait()
        caller.cancel()
        await ended(caller)

        assert caller.cancelled()
        assert len(tasks) == 1
        work.go.set()
        await tasks.wait_idle()
        assert work.story == ["done"]


class TestGroups:
    async def test_answers_stand_in_the_order_of_the_works(self) -> None:
        """Whatever ends first, places are kept."""
        first, second = Work(), Work()

        async def let_go() -> str:
            second.go.set()
            await asyncio.sleep(0)
            first.go.set()
            return "let go"

        assert await all_of(first.run(), second.run(), let_go()) == ["answer", "answer", "let go"]

    async def test_the_first_error_cancels_the_others(self) -> None:
        """Nothing of a failed group goes on running; its error is raised in a group."""
        slow, broken = Work(), Work()
        broken.go.set()

        with pytest.raises(ExceptionGroup) as caught:
            await all_of(slow.run(), broken.fail())

        assert caught.group_contains(OSError, match="broken")
        assert slow.story == ["cancelled", "clean"]

    async def test_outcomes_hold_each_answer_or_error(self) -> None:
        """One error spoils nobody else's answer."""
        good, broken = Work(), Work()
        good.go.set()
        broken.go.set()

        answer, error = await outcomes_of(good.run(), broken.fail())

        assert answer == "answer"
        assert isinstance(error, OSError)


class TestThreads:
    async def test_a_call_runs_in_a_thread_with_the_callers_context(self) -> None:
        """A blocking call sees the caller's context variables, and not the caller's thread."""
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        variable.set("mine")
        threads = Threads(1, name="test")

        name, value = await threads.run(lambda: (threading.current_thread().name, variable.get()))
        threads.close(wait=True)

        assert name.startswith("test")
        assert value == "mine"

    async def test_an_error_in_the_thread_is_the_callers(self) -> None:
        """The error of a call is raised where it was awaited."""
        threads = Threads(1, name="test")

        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        threads.close(wait=True)
