"""The watch over the event loop: it names the line that blocks, and blames nobody when nothing does."""

from __future__ import annotations

import asyncio
import json
import logging
import select
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Watcher
from dujiang.telemetry.metrics import Histogram
from dujiang.telemetry.watch import Block, LoopWatch, block_at

if TYPE_CHECKING:
    from types import FrameType


def block(seconds: float) -> int:
    """Block the thread; the answer is the line that does."""
    line = sys._getframe().f_lineno + 1
    select.select([], [], [], seconds)
    return line


class Lag(Histogram):
    """A histogram on whose samples a test can wait."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self.sampled = asyncio.Event()

    def observe(self, value: float) -> None:
        super().observe(value)
        self.sampled.set()


async def turns(lag: Lag, count: int) -> None:
    """Return once the watch has taken this many more samples."""
    async with asyncio.timeout(10):
        for _ in range(count):
            lag.sampled.clear()
            await lag.sampled.wait()


class TestLoopWatch:
    async def test_it_names_the_line_that_blocks(self) -> None:
        """The report holds this file, the blocking line and its function, once for one block, and the lag is counted."""
        node, lag, found = Node.system("test"), Lag((0.05, 0.2)), list[Block]()
        watch = LoopWatch(node, lag, every_s=0.01, late_s=0.03, on_block=found.append)
        await watch.start()
        await turns(lag, 2)

        line = block(0.3)
        await turns(lag, 1)
        await watch.stop()

        # A busy machine may stop this process elsewhere too; such a report names another place.
        (report,) = [one for one in found if one.place == f"{__file__}:{line} in block"]
        assert report.late_s >= 0.03
        assert lag.counts[2] >= 1

    async def test_a_library_that_blocks_is_blamed_on_its_caller(self) -> None:
        """`place` is the line of ours that called the library, `inside` the library's own."""
        node, lag, found = Node.system("test"), Lag((0.05,)), list[Block]()
        watch = LoopWatch(node, lag, every_s=0.01, late_s=0.03, on_block=found.append)
        await watch.start()
        await turns(lag, 2)

        line = sys._getframe().f_lineno + 3
        async with asyncio.timeout(60):
            while not any("/json/" in one.inside for one in found):
                json.dumps(
                    [list(range(1000))] * 300, indent=1
                )  # The pure Python encoder, for longer than it may be late.
                await turns(lag, 1)
        await watch.stop()

        places = [one.place for one in found if "/json/" in one.inside]
        assert places[0].startswith(f"{__file__}:{line} in ")

    async def test_a_healthy_loop_is_not_blamed(self) -> None:
        """A loop that waits, and one that works in short pieces, is never reported."""
        node, lag, found = Node.system("test"), Lag((0.05,)), list[Block]()
        watch = LoopWatch(node, lag, every_s=0.01, late_s=5.0, on_block=found.append)
        await watch.start()

        await turns(lag, 20)
        await watch.stop()

        assert found == []

    async def test_the_log_says_a_place_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Without a callback a warning names the place, and the same place not again within a minute."""
        node, lag = Node.system("test"), Lag((0.05,))
        watch = LoopWatch(node, lag, every_s=0.01, late_s=0.03)
        await watch.start()
        line = 0
        for _ in range(3):
            await turns(lag, 2)
            line = block(0.15)
        await watch.stop()

        messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert messages.count(f"the event loop stands still at {__file__}:{line} in block") == 1

    async def test_stopping_leaves_no_thread_and_no_task(self) -> None:
        """After `stop` the thread has ended and the task too; stopping twice or unstarted does nothing."""
        node = Node.system("test")
        watch = LoopWatch(node, Histogram((0.05,)))
        await watch.stop()
        await watch.start()
        during = [thread.name for thread in threading.enumerate()]

        async with asyncio.timeout(5):
            await watch.stop()
            await watch.stop()
            await node.tasks.wait_idle()

        assert "dujiang-watch" in during
        assert "dujiang-watch" not in [thread.name for thread in threading.enumerate()]

    async def test_a_healthy_process_pays_next_to_nothing(self) -> None:
        """In two seconds, four samples, the watch uses less than 20 ms of processor time, 1 % of a core."""
        lag = Lag((0.05,))
        watch = LoopWatch(Node.system("test"), lag)
        await watch.start()
        began_s = time.process_time()

        await turns(lag, 4)
        used_s = time.process_time() - began_s
        await watch.stop()

        assert used_s < 0.02


class TestBlockAt:
    def test_a_thread_that_waits_for_events_is_not_blocked(self) -> None:
        """A loop in its selector is idle, however late it is: then the whole process stood still."""
        frames: list[FrameType | None] = []
        loop = asyncio.new_event_loop()
        ready = threading.Event()

        def run() -> None:
            loop.call_soon(ready.set)
            loop.run_forever()

        thread = threading.Thread(target=run)
        thread.start()
        ready.wait(5)
        while not frames or frames[-1] is None or frames[-1].f_code.co_name != "select":
            frames.append(sys._current_frames().get(thread.ident or 0))
        found = block_at(frames[-1], late_s=1.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

        assert found is None
        assert block_at(None, late_s=1.0) is None

    def test_a_working_thread_is(self) -> None:
        """The frame of this very line is shown as file, line and function."""
        frame = sys._getframe()

        found = block_at(frame, late_s=1.0)

        assert found is not None
        assert found.place == found.inside
        assert found.place.endswith("in test_a_working_thread_is")


class TestWatcher:
    def test_an_error_in_a_look_does_not_end_it(self, caplog: pytest.LogCaptureFixture) -> None:
        """A watcher whose look raises says so, and can still be closed at once."""
        looked = threading.Event()

        def look() -> float:
            looked.set()
            raise RuntimeError("broken")

        watcher = Watcher(look, name="broken")
        assert looked.wait(5)
        watcher.close()
        watcher.close()

        assert "watcher broken failed" in caplog.text

    def test_it_sees_where_its_maker_is(self) -> None:
        """`frame` is the maker's frame, also when it is asked from the watcher's own thread."""
        seen: list[str] = []
        done = threading.Event()
        watcher: list[Watcher] = []

        def look() -> float:
            if watcher:
                frame = watcher[0].frame()
                while frame is not None:
                    seen.append(frame.f_code.co_name)
                    frame = frame.f_back
                done.set()
            return 0.01

        watcher.append(Watcher(look, name="seeing"))
        assert done.wait(5)
        watcher[0].close()

        assert "test_it_sees_where_its_maker_is" in seen
