"""The supervisor, with real child processes: started, counted, restarted, stopped, and none left over.

The children are small programs that keep a worker's side of the bargain: a byte on the pipe when ready, an end when the
pipe ends or SIGTERM comes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dujiang.cli import marks
from dujiang.cli.listen import bound
from dujiang.cli.supervise import Supervisor, ending, stamps, worker_command
from dujiang.kernel.tasks import Tasks
from dujiang.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

READY_AND_WAIT = "import os,sys; os.write(int(sys.argv[2]), b'r'); os.read(int(sys.argv[2]), 1)"
DEAF = "import os,sys,signal; signal.signal(15, lambda *a: None); os.write(int(sys.argv[2]), b'r')\nwhile 1: signal.pause()"


class World:
    """One supervisor and what it announced."""

    def __init__(
        self, stack: ExitStack, folder: Path, code: str, *, count: int = 2, reload: bool = False, grace_s: float = 5.0
    ) -> None:
        self.ready = asyncio.Event()
        self.listener = stack.enter_context(bound("127.0.0.1", 0))
        self.started: list[int] = []
        self.supervisor = Supervisor(
            command=self.command(code),
            settings=Settings(data=folder, grace_s=grace_s),
            listener=self.listener,
            count=count,
            reload=reload,
            folder=folder,
            ready=self.ready.set,
        )

    def command(self, code: str) -> Callable[[int, int, int], list[str]]:
        def command(slot: int, listener: int, pipe: int) -> list[str]:
            self.started.append(slot)
            return [sys.executable, "-c", code, str(listener), str(pipe)]

        return command

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self.supervisor.workers if worker.process is not None]


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """Tasks that end with the test."""
    tasks = Tasks("test", on_crash=lambda _name, _error: None)
    yield tasks
    await tasks.close()


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Closes what the test opened."""
    with ExitStack() as stack:
        yield stack


def alive(pid: int) -> bool:
    """Whether the process runs."""
    return Path(f"/proc/{pid}").exists()


class TestSupervisor:
    async def test_ready_is_said_once_when_every_worker_is(
        self, tmp_path: Path, tasks: Tasks, sockets: ExitStack
    ) -> None:
        """After the last worker's byte the address is on disk and `ready` is called; a stop ends them all, exit 0."""
        world = World(sockets, tmp_path, READY_AND_WAIT, count=3)
        running = tasks.spawn(world.supervisor.run(), name="run")

        async with asyncio.timeout(30):
            await world.ready.wait()
            pids = world.pids()
            assert marks.read_address(tmp_path) == world.listener.getsockname()[:2]
            assert len(marks.read_token(tmp_path)) == 43
            world.supervisor.stopping.ask()
            assert await running == 0

        assert sorted(world.started) == [1, 2, 3]
        assert not any(alive(pid) for pid in pids)
        assert marks.read_address(tmp_path) is None

    async def test_a_worker_that_is_killed_is_started_again(
        self, tmp_path: Path, tasks: Tasks, sockets: ExitStack
    ) -> None:
        """Kill -9 of one worker starts one more under the same number; the others are left alone."""
        world = World(sockets, tmp_path, READY_AND_WAIT)
        running = tasks.spawn(world.supervisor.run(), name="run")

        async with asyncio.timeout(30):
            await world.ready.wait()
            first, second = world.pids()
            os.kill(first, signal.SIGKILL)
            while world.pids()[0] == first:
                await world.supervisor.node.clock.sleep(0.01)
            assert world.pids()[1] == second
            world.supervisor.stopping.ask()
            assert await running == 0

        assert sorted(world.started) == [1, 1, 2]

    async def test_a_worker_that_cannot_start_ends_everything_with_its_code(
        self, tmp_path: Path, tasks: Tasks, sockets: ExitStack
    ) -> None:
        """A wrong setting is reported once, with the worker's exit code, and is no loop."""
        world = World(sockets, tmp_path, "import sys; sys.exit(78)")

        async with asyncio.timeout(30):
            assert await world.supervisor.run() == 78

        assert len(world.started) == 2
        assert not world.ready.is_set()

    async def test_a_worker_that_does_not_stop_is_killed(
        self, tmp_path: Path, tasks: Tasks, sockets: ExitStack
    ) -> None:
        """`kill`, which the second signal calls, ends workers that ignore SIGTERM."""
        world = World(sockets, tmp_path, DEAF)
        running = tasks.spawn(world.supervisor.run(), name="run")

        async with asyncio.timeout(30):
            await world.ready.wait()
            pids = world.pids()
            world.supervisor.stopping.ask()
            world.supervisor.kill()
            assert await running == 0

        assert not any(alive(pid) for pid in pids)

    async def test_reload_starts_again_when_a_file_changes(
        self, tmp_path: Path, tasks: Tasks, sockets: ExitStack, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A changed Python file stops the worker and starts one more; a broken one waits for the next change."""
        (tmp_path / "site.py").write_text("1")
        world = World(sockets, tmp_path, READY_AND_WAIT, count=1, reload=True)
        running = tasks.spawn(world.supervisor.run(), name="run")

        async with asyncio.timeout(30):
            await world.ready.wait()
            (tmp_path / "site.py").write_text("12")
            os.utime(tmp_path / "site.py", (1, 1))
            while len(world.started) < 2:
                await world.supervisor.node.clock.sleep(0.02)
            world.supervisor.stopping.ask()
            assert await running == 0

        assert f"{tmp_path / 'site.py'} changed; starting again" in capsys.readouterr().err

    async def test_a_worker_ends_when_the_supervisor_is_gone(
        self, tmp_path: Path, tasks: Tasks, sockets: ExitStack
    ) -> None:
        """Kill -9 of the supervisor leaves no worker behind: the pipe's end tells them."""
        script = tmp_path / "up.py"
        script.write_text(
            "import asyncio, sys\nfrom pathlib import Path\n"
            "from dujiang.cli.listen import bound\nfrom dujiang.cli.supervise import Supervisor\n"
            "from dujiang.settings import Settings\n"
            f"code = {READY_AND_WAIT!r}\n"
            "folder = Path(sys.argv[1])\n"
            "def ready(): print(*[w.process.pid for w in s.workers], flush=True)\n"
            "command = lambda slot, a, b: [sys.executable, '-c', code, str(a), str(b)]\n"
            "s = Supervisor(command=command, settings=Settings(data=folder), listener=bound('127.0.0.1', 0), count=2,\n"
            "               reload=False, folder=folder, ready=ready)\n"
            "asyncio.run(s.run())\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None

        async with asyncio.timeout(30):
            pids = [int(word) for word in (await process.stdout.readline()).split()]
            process.kill()
            await process.wait()
            # The workers hold our end of stdout open; it ends when the last of them has ended.
            assert await process.stdout.read() == b""

        assert len(pids) == 2


class TestParts:
    def test_the_command_of_a_worker_repeats_the_flags(self, tmp_path: Path) -> None:
        """A worker gets the application, the user's flags, its descriptors and an instance name of its own."""
        command = worker_command("a:b", ["--port", "81"], Settings(data=tmp_path, instance="blue"))

        assert command(2, 7, 8)[1:] == [
            "-m", "dujiang.cli", "up", "a:b", "--port", "81", "--child", "7,8", "--instance", "blue-2",
        ]  # fmt: skip

    def test_what_is_watched(self, tmp_path: Path) -> None:
        """Python files and dujiang.toml; not caches, hidden folders or environments."""
        for name in ("a.py", "b.txt", "dujiang.toml", ".git/c.py", "__pycache__/d.py", "sub/e.py", "venv/f.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")

        assert {Path(path).name for path in stamps(tmp_path)} == {"a.py", "dujiang.toml", "e.py"}

    def test_an_end_is_named(self) -> None:
        """Exit codes by number, signals by name."""
        assert [ending(0), ending(78), ending(-9), ending(-99)] == [
            "exit code 0",
            "exit code 78",
            "SIGKILL",
            "signal 99",
        ]
