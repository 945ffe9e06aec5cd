"""The desk of a store that is in use: the owner is asked over HTTP, and its refusals become exit codes."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.app import App
from dujiang.cli import marks
from dujiang.cli.desk import OwnerRefused, OwnerSilent, RemoteDesk, StoreMissing, desk
from dujiang.cli.exits import exit_code_of
from dujiang.data.database import StoreInUse
from dujiang.kernel.entropy import SystemEntropy
from dujiang.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER = StoreInUse(path="var/app.db", pid=4711)


@contextmanager
def owner(data: Path, status: int, body: bytes) -> Iterator[tuple[RemoteDesk, list[dict[str, Any]]]]:
    """A process that answers every request alike, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = {"line": f"{self.command} {self.path}", "token": self.headers["Authorization"]}
            asked.append(request | {"body": self.rfile.read(length)})
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815  (the names are the library's)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        marks.keep_address(data, host="127.0.0.1", port=server.server_address[1], pid=4711)
        try:
            yield RemoteDesk(OWNER, Settings(data=data)), asked
        finally:
            server.shutdown()
            thread.join()


class TestRemote:
    async def test_each_operation_asks_its_path_with_the_token(self, tmp_path: Path) -> None:
        """Paths, methods, the payload's bytes and the bearer token are those of the operations API."""
        token = marks.keep_token(tmp_path, SystemEntropy())
        rows: list[dict[str, Any]] = [{"id": "5", "invariant": "i", "rows": []}]

        with owner(tmp_path, 200, json.dumps(rows[0]).encode()) as (desk, first):
            letter = await desk.show(5)
        with owner(tmp_path, 200, json.dumps(rows).encode()) as (desk, asked):
            letters = await desk.list("shop.count sale", 3)
            await desk.replay(5, None, force=False)
            await desk.replay(5, b"\x00{}", force=True)
            await desk.discard(5)
            violations = await desk.audit()

        assert [request["line"] for request in first] == ["GET /_dj/deadletters/5"]
        assert [request["line"] for request in asked] == [
            "GET /_dj/deadletters?subscription=shop.count%20sale&limit=3",
            "POST /_dj/deadletters/5/replay",
            "POST /_dj/deadletters/5/replay?force=true",
            "POST /_dj/deadletters/5/discard",
            "POST /_dj/audit",
        ]
        assert {request["token"] for request in asked} == {f"Bearer {token}"}
        assert [request["body"] for request in asked] == [b"", b"", b"\x00{}", b"", b""]
        assert (letters, letter, violations) == (rows, rows[0], rows)

    async def test_the_cache_is_asked_for_and_dropped_there(self, tmp_path: Path) -> None:
        """Looking is a GET, dropping a DELETE; an answer that is no cache's is refused."""
        marks.keep_token(tmp_path, SystemEntropy())
        with owner(tmp_path, 200, b'{"entries": 3}') as (desk, asked):
            assert await desk.cached() == {"entries": 3}
            await desk.drop()
        with owner(tmp_path, 200, b"[]") as (desk, _), pytest.raises(OwnerSilent, match="no state of a cache"):
            await desk.cached()

        assert [request["line"] for request in asked] == ["GET /_dj/cache", "DELETE /_dj/cache"]

    async def test_jobs_are_asked_for_there(self, tmp_path: Path) -> None:
        """Lists, counts and views are GET, what is done is POST; an answer of another shape is refused."""
        marks.keep_token(tmp_path, SystemEntropy())
        with owner(tmp_path, 200, b'{"jobs": []}') as (desk, asked):
            assert await desk.jobs(name="desk.make all", limit="3") == {"jobs": []}
            for rest in (("5",), ("5", "cancel"), ("5", "retry")):
                await desk.jobs(*rest)
            with pytest.raises(OwnerSilent, match="no jobs"):
                await desk.jobs("counts")
        with owner(tmp_path, 200, b"[]") as (desk, _):
            assert await desk.jobs("counts") == []
            with pytest.raises(OwnerSilent, match="no jobs"):
                await desk.jobs("5")

        assert [request["line"] for request in asked] == [
            "GET /_dj/jobs?name=desk.make+all&limit=3",
            "GET /_dj/jobs/5",
            "POST /_dj/jobs/5/cancel",
            "POST /_dj/jobs/5/retry",
            "GET /_dj/jobs/counts",
        ]

    @pytest.mark.parametrize(
        ("status", "code"), [(401, 78), (403, 78), (404, 65), (409, 65), (422, 65), (429, 69), (503, 69), (500, 70)]
    )
    async def test_a_refusal_of_the_owner_becomes_an_exit_code(self, tmp_path: Path, status: int, code: int) -> None:
        """What problem+json says is shown; the status decides the code."""
        body = b'{"detail": "no dead letter has the id 5", "hint": "look for it"}'
        with owner(tmp_path, status, body) as (desk, _), pytest.raises(OwnerRefused) as caught:
            await desk.show(5)

        assert caught.value.detail.startswith(f"no dead letter has the id 5 ({status} ")
        assert caught.value.hint == "look for it"
        assert exit_code_of(caught.value) == code

    @pytest.mark.parametrize("body", [b"<html>", b"\xff", b"", b"[1]", b"{}", b"5", b"null"])
    async def test_an_answer_of_another_program_is_no_crash(self, tmp_path: Path, body: bytes) -> None:
        """Whatever listens there now, the command ends with one of our errors."""
        with owner(tmp_path, 200, body) as (desk, _), pytest.raises(OwnerSilent, match="did not answer as"):
            await desk.list("", 1)

    async def test_an_owner_that_does_not_answer_is_named(self, tmp_path: Path) -> None:
        """The pid, the store, the address and the cause are in the message; exit 69."""
        with owner(tmp_path, 200, b"{}") as (desk, _):
            pass

        with pytest.raises(OwnerSilent, match=r"process 4711 owns var/app.db.*Connection refused") as caught:
            await desk.audit()
        assert exit_code_of(caught.value) == 69


class TestLocal:
    async def test_10_a_folder_without_a_store_is_no_good_news(self, tmp_path: Path) -> None:
        """An audit in the wrong folder is refused; it does not make an empty store in which every law holds."""
        with pytest.raises(StoreMissing, match="there is no store at") as caught:
            async with desk(App(modules=[]), Settings(data=tmp_path / "var")):
                pass

        assert exit_code_of(caught.value) == 78
        assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  (nothing else runs)
