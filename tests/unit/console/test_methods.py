"""Methods that a path does not take: HEAD, OPTIONS, TRACE, unknown ones; `Allow` lists every method of the path."""

from __future__ import annotations

import pytest

from dujiang import App, Model, Module, Read, Tx
from dujiang.testing.harness import running


class Thing(Model):
    """A thing."""

    name: str


site = Module("site")


@site.write("POST /things")
async def add(tx: Tx, body: Thing) -> Thing:
    """One of two methods of a path."""
    return body


@site.read("GET /things")
async def things(db: Read) -> Thing:
    """The other one."""
    return Thing(name="all")


@site.write("PUT /things/{name}")
async def put(tx: Tx, name: str, body: Thing) -> Thing:
    """A path with a parameter."""
    return body


@site.read("GET /things/{name}")
async def thing(db: Read, name: str) -> Thing | None:
    """May not be there."""
    return Thing(name=name) if name != "none" else None


@site.write("POST /things/search")
async def search(tx: Tx, body: Thing) -> Thing:
    """A fixed path that a path with a parameter covers too."""
    return body


@site.write("DELETE /_dj/site/{name}")
async def remove(tx: Tx, name: str) -> None:
    """An operation of the app."""


app = App(modules=[site])

ALLOWED = [
    ("/things", "GET, HEAD, OPTIONS, POST"),
    ("/things/a", "GET, HEAD, OPTIONS, PUT"),
    ("/things/search", "GET, HEAD, OPTIONS, POST, PUT"),
    ("/health/live", "GET, HEAD, OPTIONS"),
    ("/metrics", "GET, HEAD, OPTIONS"),
    ("/docs/errors/not_found", "GET, HEAD, OPTIONS"),
    ("/_dj/deadletters", "GET, HEAD, OPTIONS"),
    ("/_dj/audit", "OPTIONS, POST"),
    ("/_dj/deadletters/7/replay", "OPTIONS, POST"),
    ("/_dj/site/a", "DELETE, OPTIONS"),
    ("/openapi.json", "GET, HEAD, OPTIONS"),
]


class TestAllow:
    @pytest.mark.parametrize("method", ["PATCH", "PROPFIND", "FOO"])
    async def test_another_method_is_405_and_lists_all(self, method: str) -> None:
        """51: a method that a path does not take, known to HTTP or not, is 405 with every method of the path."""
        async with running(app) as world:
            for path, allow in ALLOWED:
                answer = await world.operate(method, path)

                assert (answer.status, answer.json["code"]) == (405, "method_not_allowed"), path
                assert set(answer.headers["allow"].split(", ")) | {"OPTIONS"} == set(allow.split(", ")), path

    async def test_options_is_204_with_allow(self) -> None:
        """72: OPTIONS answers what a path takes, and gives no other site any right to it."""
        async with running(app) as world:
            for path, allow in ALLOWED:
                answer = await world.request(
                    "OPTIONS",
                    path,
                    headers={
                        "authorization": "Bearer harness-operator-token",
                        "origin": "https://evil.example",
                        "access-control-request-method": "POST",
                    },
                )

                assert (answer.status, answer.body) == (204, b""), path
                assert answer.headers["allow"] == allow, path
                assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_trace_is_405_everywhere(self) -> None:
        """52: TRACE would give a header back that a script may not read; `Allow` is the path's all the same."""
        async with running(app) as world:
            known = await world.request("TRACE", "/things")
            unknown = await world.request("TRACE", "/nowhere")
            operation = await world.request("TRACE", "/_dj/audit")

            assert (known.status, known.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
            assert unknown.status == operation.status == 405
            assert unknown.headers["allow"] == operation.headers["allow"]

    async def test_an_unknown_path_is_404_for_every_method(self) -> None:
        """Where there is nothing, no method makes a difference; operations are not told to strangers."""
        async with running(app) as world:
            for method in ("GET", "HEAD", "OPTIONS", "FOO"):
                assert (await world.request(method, "/nowhere")).status == 404
                assert (await world.request(method, "/_dj/audit")).status == 401


class TestHead:
    async def test_it_is_get_without_the_body(self) -> None:
        """HEAD gives GET's status and headers, its length included, and no byte of the body; for 404 too."""
        async with running(app) as world:
            for path in ("/things", "/things/a", "/things/none", "/health/ready", "/docs/errors", "/openapi.json"):
                got, head = await world.get(path), await world.request("HEAD", path)

                assert (head.status, head.body) == (got.status, b""), path
                assert head.headers["content-type"] == got.headers["content-type"]
                assert int(head.headers["content-length"]) > 0
                if path != "/health/ready":  # Its report holds the time.
                    assert head.headers["content-length"] == got.headers["content-length"]

    async def test_a_method_that_another_path_form_takes_is_served(self) -> None:
        """GET of a fixed path that only POST is declared for reaches the path with a parameter."""
        async with running(app) as world:
            assert (await world.get("/things/search")).json == {"name": "search"}
            assert (await world.post("/things/search", {"name": "x"})).status == 201
