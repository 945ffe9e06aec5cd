"""A declared workload reaches what types cannot: its answers count for the flows that it calls."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

import pytest
from fastapi import Request

from dujiang import App, Client, Model, Module, Refusal, Tx
from dujiang.drill import drill

SEALED = b'{"seal":  "a form that json.dumps does not write"}'


class NotSealed(Refusal):
    """The body is not the one."""

    code = "not_sealed"
    status = 401


class Opened(Model):
    """A letter was opened."""

    length: int


@pytest.fixture
def post() -> App:
    """An app that takes one body of bytes, and an operator's call."""
    module = Module("post")

    @module.write("POST /letters")
    async def open_letter(tx: Tx, request: Request) -> Opened | NotSealed:
        body = await request.body()
        if not compare_digest(body, SEALED):
            raise NotSealed("broken")
        return Opened(length=len(body))

    @module.write("PUT /_dj/post/{box}")
    async def empty_box(tx: Tx, box: str) -> Opened | NotSealed:
        if box != "the-one-that-a-person-knows":
            raise NotSealed("no such box")
        return Opened(length=0)

    @module.workload
    async def a_writer(client: Client) -> None:
        await client.post("/letters", SEALED)
        await client.put("/_dj/post/the-one-that-a-person-knows")

    return App(modules=[module])


def test_its_answers_count_its_bytes_are_sent_as_they_are_and_it_is_the_operator(post: App, tmp_path: Any) -> None:
    """Both flows succeed by the declared client alone, so the drill names neither as not exercised."""
    report = drill(post, seeds=1, sweep=False, workers=1, folder=tmp_path, broker="sql")

    assert report.not_exercised == []
    assert report.flows["post.open_letter"].get("201", 0) > 0
