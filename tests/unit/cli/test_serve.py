"""One serving process, from outside: the line `ready`, signals, requests in flight, the supervisor's pipe.

The process is real: socket, uvicorn, signals. In place of the runtime stands a small one that answers health and one slow
path, so that what is tested here is the serving alone.
"""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dujiang.cli import marks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = """
import asyncio, sys
from pathlib import Path
import dujiang.cli.serve as serve
from dujiang.cli.listen import bound
from dujiang.settings import Settings

class Runtime:
    def __init__(self, app, settings, node, roles):
        self.mode = app

    async def drain(self):
        print("draining", flush=True)

    async def start(self):
        print("starting", flush=True)
        if self.mode == "hang":
            await asyncio.Event().wait()

    async def stop(self):
        print("stopped", flush=True)
        if self.mode == "stuck":
            await asyncio.Event().wait()

    async def asgi(self, scope, receive, send):
        if scope["path"] == "/slow":
            print("slow", flush=True)
            await asyncio.sleep(0.5)
        status = 503 if self.mode == "unready" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

serve.Runtime = Runtime
serve.READY_LIMIT_S = 0.3
mode, data, port, pipe = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
import socket
settings = Settings(data=data, port=port, grace_s=5.0)
sys.exit(serve.run_job(serve.Job(
    app=mode, settings=settings, listener=bound("127.0.0.1", port), announce=lambda: serve.announce(settings),
    pipe=socket.socket(fileno=pipe) if pipe else None, hands_over=mode == "handing",
)))
"""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(data: Path, mode: str = "good", pipe: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port; killed at the end if it still runs."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), mode, str(data), str(port), str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(pipe,) if pipe else (),
        text=True,
    )
    with process:
        try:
            yield process, port
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def get(port: int, path: str) -> http.client.HTTPResponse:
    """One request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


class TestServe:
    def test_ready_is_printed_when_it_answers(self, tmp_path: Path) -> None:
        """After the line `ready URL` the first request succeeds; token and address are on disk; no server header."""
        with serving(tmp_path) as (process, port):
            assert [line_of(process), line_of(process)] == ["starting", f"ready http://127.0.0.1:{port}"]

            response = get(port, "/")
            assert (response.status, response.getheader("server")) == (200, None)
            assert marks.read_address(tmp_path) == ("127.0.0.1", port)
            assert len(marks.read_token(tmp_path)) == 43

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
    def test_39_the_first_signal_lets_a_request_end(self, tmp_path: Path, number: signal.Signals, code: int) -> None:
        """A request in flight is answered, the runtime is stopped, the address is gone; 0 for SIGTERM, 130 for Ctrl-C."""
        with serving(tmp_path) as (process, port), ThreadPoolExecutor(1) as pool:
            assert [line_of(process), line_of(process).split()[0]] == ["starting", "ready"]
            answer = pool.submit(get, port, "/slow")
            assert line_of(process) == "slow"
            process.send_signal(number)

            assert answer.result(timeout=20).status == 200
            assert [line_of(process), line_of(process)] == ["draining", "stopped"]
            assert process.wait(timeout=20) == code
            assert marks.read_address(tmp_path) is None

    def test_a_process_that_hands_over_goes_on_to_take_connections(self, tmp_path: Path) -> None:
        """After the signal a connection that is kept, and a new one, are answered once more, with `Connection: close`."""
        with serving(tmp_path, "handing") as (process, port):
            assert [line_of(process), line_of(process).split()[0]] == ["starting", "ready"]
            kept = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            kept.request("GET", "/")
            before = kept.getresponse()
            before.read()
            process.send_signal(signal.SIGTERM)
            assert line_of(process) == "draining"
            kept.request("GET", "/")
            after = kept.getresponse()
            after.read()
            fresh = get(port, "/")

            assert [answer.status for answer in (before, after, fresh)] == [200, 200, 200]
            assert [answer.getheader("connection") for answer in (before, after, fresh)] == [None, "close", "close"]
            assert process.wait(timeout=20) == 0

    def test_a_connection_that_has_said_nothing_yet_is_answered(self, tmp_path: Path) -> None:
        """What connected before the end and asks during it gets an answer; nothing that the kernel accepted is reset."""
        with serving(tmp_path) as (process, port), ThreadPoolExecutor(1) as pool:
            assert [line_of(process), line_of(process).split()[0]] == ["starting", "ready"]
            slow = pool.submit(get, port, "/slow")
            assert line_of(process) == "slow"
            young = [http.client.HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(20)]
            for connection in young:
                connection.connect()
            process.send_signal(signal.SIGTERM)
            assert line_of(process) == "draining"
            for connection in young:
                connection.request("GET", "/")

            answers = [connection.getresponse() for connection in young]
            assert {answer.status for answer in answers} == {200}
            assert {answer.getheader("connection") for answer in answers} == {"close"}
            assert slow.result(timeout=20).status == 200
            assert process.wait(timeout=20) == 0

    def test_39_the_second_signal_ends_at_once(self, tmp_path: Path) -> None:
        """A stop that hangs is ended by asking again."""
        with serving(tmp_path, "stuck") as (process, _):
            assert [line_of(process), line_of(process).split()[0]] == ["starting", "ready"]
            process.send_signal(signal.SIGTERM)
            assert [line_of(process), line_of(process)] == ["draining", "stopped"]
            process.send_signal(signal.SIGTERM)

            assert process.wait(timeout=20) == 143

    def test_a_signal_ends_a_start_that_hangs(self, tmp_path: Path) -> None:
        """The start is cancelled and what had started is stopped."""
        with serving(tmp_path, "hang") as (process, _):
            assert line_of(process) == "starting"
            process.send_signal(signal.SIGTERM)

            assert line_of(process) == "stopped"
            assert process.wait(timeout=20) == 0

    def test_a_server_that_does_not_become_ready_ends(self, tmp_path: Path) -> None:
        """Without a 200 from /health/ready there is no line `ready`; the last answer is named."""
        with serving(tmp_path, "unready") as (process, _):
            out, err = process.communicate(timeout=20)

        assert out.splitlines() == ["starting", "draining", "stopped"]
        assert "its last answer: 503" in err

    def test_a_worker_tells_its_supervisor_and_ends_with_it(self, tmp_path: Path) -> None:
        """Ready is a byte on the pipe and no line; the pipe's end is a clean stop."""
        ours, theirs = socket.socketpair()
        with ours, theirs, serving(tmp_path, pipe=theirs.fileno()) as (process, port):
            theirs.close()
            ours.settimeout(20)
            assert ours.recv(1) == b"r"
            assert get(port, "/").status == 200
            ours.close()

            assert process.wait(timeout=20) == 0
            assert process.stdout is not None
            assert process.stdout.read().split() == ["starting", "draining", "stopped"]
            assert list(tmp_path.iterdir()) == []
