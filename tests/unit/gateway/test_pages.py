"""The page behind a problem's `type`: it is there for every code, holds no markup of ours or others, and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from dujiang import App, Model, Module, Refusal, Tx
from dujiang.gateway.pages import POLICY, STYLE, error_page, explained, packaged
from dujiang.gateway.problems import NotFound
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.problem import CODES, INPUT_CODES
from dujiang.testing.harness import running
from tests.docs.generate import error_classes


class ChairTaken(Refusal):
    """The chair is <b>taken</b>.

    An inner remark that is nobody's business.
    """

    code = "chair_taken"


class Inner(DujiangError):
    """Something of the application's own is wrong."""

    code = "inner_wrong"
    move = "report"
    says = "the secret host {host} is away"
    cure = "restart the secret host"


def even(value: int) -> int:
    """A rule with a code of the application's own."""
    if value % 2:
        raise PydanticCustomError("odd_number", "must be even")
    return value


class Seat(Model):
    """A seat."""

    number: Annotated[int, AfterValidator(even)]


site = Module("site")


@site.write("POST /seats")
async def take(tx: Tx, body: Seat) -> Seat:
    """Refuses in several ways."""
    if body.number == 402:
        raise HTTPException(402, "pay first")
    if body.number == 0:
        raise RuntimeError("foreign")
    raise ChairTaken("seat A1 is taken")


app = App(modules=[site])


class Reader(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag and where it leads."""
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data


class TestEveryCode:
    def test_each_of_ours_has_its_page(self) -> None:
        """Every error class, and every code that a value can get, is explained with title and move."""
        codes = {kind.code for kind in error_classes()} | set(INPUT_CODES)

        assert set(CODES.values()) <= codes
        for code in codes:
            reader = Reader(error_page(code).body.decode())
            found = explained(code)
            assert found is not None
            assert code in reader.text
            assert found.title in reader.text

    def test_what_is_packaged_names_every_class(self) -> None:
        """The file beside the module holds what the classes say now."""
        assert set(packaged()) == {kind.code for kind in error_classes()}

    async def test_the_type_of_an_answer_leads_to_a_page(self) -> None:
        """Refusals of the app and of the platform, HTTPException, a foreign error, an invented code: each link works."""
        async with running(app) as world:
            answers = [
                await world.post("/seats", {"number": 2}),
                await world.post("/seats", {"number": 402}),
                await world.post("/seats", {"number": 0}),
                await world.post("/seats", {"number": 1}),
                await world.post("/seats", {"number": "2"}),
                await world.get("/nowhere"),
                await world.request("DELETE", "/seats"),
                await world.get("/docs/errors/no_such_code"),
                await world.get("/_dj/audit"),
            ]

            codes = [answer.json["code"] for answer in answers]
            assert codes[:5] == ["chair_taken", "payment_required", "internal", "odd_number", "wrong_type"]
            assert answers[3].json["type"] == "/docs/errors/invalid_body"
            for answer in answers:
                page = await world.get(answer.json["type"])
                assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8"), answer.json


class TestPage:
    def test_nothing_is_loaded_and_nothing_is_run(self) -> None:
        """No tag but those of text, no link but to other pages, no script or style but the page's own."""
        for code in ["", *packaged()]:
            answer = error_page(code)
            reader = Reader(answer.body.decode())

            assert set(reader.tags) <= set(
                "html head meta title style body main p a h1 dl dt dd pre ul li table tr th td".split()
            )
            assert all(link.startswith("/docs/errors") for link in reader.links)
            headers = dict(answer.headers)
            assert headers[b"content-security-policy"] == POLICY.encode()
            assert headers[b"x-content-type-options"] == b"nosniff"
        assert "default-src 'none'" in POLICY
        assert re.search(r"url\(|@import", STYLE) is None

    def test_what_an_application_says_is_escaped_and_the_inside_stays_inside(self) -> None:
        """Markup in a docstring is text; only its first sentence is shown, and of an operator's error no values."""
        taken, inner = error_page("chair_taken").body.decode(), error_page("inner_wrong").body.decode()

        assert "&lt;b&gt;taken&lt;/b&gt;" in taken
        assert "nobody" not in taken
        assert "secret" not in inner

    @pytest.mark.parametrize("code", ["<script>", "a/b", "..", "http_status_200", "ok", "error\r\nx: y"])
    def test_an_unknown_code_is_not_found(self, code: str) -> None:
        """There is no page for what no answer carries."""
        with pytest.raises(NotFound):
            error_page(code)

    def test_the_index_lists_all(self) -> None:
        """Every code, the application's own too, with a link."""
        links = set(Reader(error_page("").body.decode()).links)

        assert {f"/docs/errors/{code}" for code in [*packaged(), *INPUT_CODES, "chair_taken"]} <= links


class TestWhere:
    async def test_a_mounted_app_links_below_its_path(self) -> None:
        """`type`, and the links of the pages, begin with the path under which the app is mounted."""
        outer = FastAPI()
        async with running(app) as world:
            outer.mount("/site", world.runtime.asgi)
            transport = httpx.ASGITransport(app=outer)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                refused: Any = (await client.post("/site/seats", json={"number": 2})).json()
                missing: Any = (await client.get("/site/nowhere")).json()
                guarded: Any = (await client.get("/site/a%2fb")).json()
                page = await client.get(refused["type"])
                index = await client.get("/site/docs/errors")

            assert refused["type"] == "/site/docs/errors/chair_taken"
            assert missing["type"] == "/site/docs/errors/not_found"
            assert guarded["type"] == "/site/docs/errors/bad_path"
            assert (page.status_code, "chair_taken" in page.text) == (200, True)
            assert all(
                link.startswith("/site/docs/errors") for link in [*Reader(page.text).links, *Reader(index.text).links]
            )
            # Nothing of the mount stays behind for others.
            assert (await world.post("/seats", {"number": 2})).json["type"] == "/docs/errors/chair_taken"

    async def test_an_attached_app_brings_its_pages_along(self) -> None:
        """Inside an existing application the same addresses lead to the same pages."""
        outer = FastAPI()
        app.attach(outer)
        async with running(app) as world:

            async def front(scope: Any, receive: Any, send: Any) -> None:
                await outer({**scope, "state": {"dujiang": world.runtime}}, receive, send)

            transport = httpx.ASGITransport(app=front)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                refused: Any = (await client.post("/seats", json={"number": 2})).json()
                page = await client.get(refused["type"])
                index = await client.get("/docs/errors")
                unknown = await client.get("/docs/errors/no_such_code")

            assert (page.status_code, index.status_code) == (200, 200)
            assert "chair_taken" in page.text
            assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
