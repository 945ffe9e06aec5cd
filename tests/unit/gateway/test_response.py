"""What a handler asks for and answers with, as a FastAPI user writes it: Response, Request, marks, refusals in the union."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Body, Cookie, Depends, Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel

from dujiang import App, Model, Module, Read, Refusal, Tx
from dujiang.data.database import PartitionMissing
from dujiang.kernel.errors import Declared
from dujiang.testing.harness import World, running


class Order(Model):
    """An order."""

    sku: str


class View(Model):
    """An order as it is shown."""

    sku: str
    note: str = ""


class Secret(View):
    """An order with what nobody may see."""

    cost: int = 7


class SoldOut(Refusal):
    """There is none left."""

    code = "sold_out"


class Page(BaseModel):
    """A part of a list, from the query."""

    limit: int = 10


def signed(response: Response) -> str:
    """A dependency that sets what belongs to the request."""
    response.headers["x-request"] = "dependency"
    response.headers["x-both"] = "dependency"
    response.set_cookie("session", "s")
    return "li"


site = Module("site")
runs: list[str] = []


@site.write("POST /orders")
async def place(tx: Tx, body: Order, response: Response) -> View:
    """Sets status, headers and a cookie, after a first run that set others."""
    runs.append(body.sku)
    response.headers["x-run"] = str(len(runs))
    response.headers.append("x-names", "käse")
    response.set_cookie("basket", "empty")
    response.set_cookie("seen", "1")
    response.status_code = 202
    if body.sku == "conflict" and runs.count("conflict") == 1:
        response.headers["x-first-run"] = "yes"
        raise PartitionMissing(kind="other", constraint="", why="the platform's way to run again")
    return View(sku=body.sku)


@site.write("POST /signed")
async def place_signed(tx: Tx, body: Order, response: Response, who: str = Depends(signed)) -> View:
    """Has a dependency with headers of its own."""
    response.headers["x-both"] = "handler"
    return View(sku=body.sku, note=who)


@site.write("POST /made")
async def made(tx: Tx, body: Order) -> JSONResponse:
    """Returns a whole Response."""
    runs.append(body.sku)
    return JSONResponse({"run": len(runs)}, 207, headers={"x-made": "yes"})


@site.write("POST /either")
async def either(tx: Tx, body: Order) -> View | SoldOut | RedirectResponse:
    """A view, a redirection, or a refusal that is returned."""
    if body.sku == "gone":
        return SoldOut("none are left", sku=body.sku)
    return RedirectResponse("/elsewhere", 303) if body.sku == "away" else View(sku=body.sku)


@site.write("POST /raw")
async def raw(tx: Tx, request: Request, note: Annotated[str, Header()] = "") -> View:
    """Reads its body by itself."""
    runs.append("raw")
    return View(sku=(await request.body()).decode(), note=f"{request.method} {request.url.path} {note}")


@site.write("POST /plain")
async def plain(tx: Tx, body: dict[str, str]) -> View:
    """Takes a body that FastAPI reads."""
    runs.append("plain")
    return View(sku=body["sku"])


@site.write("POST /nothing")
async def nothing(tx: Tx, response: Response) -> None:
    """Has nothing to say but a header."""
    response.headers["x-nothing"] = "yes"


@site.read("GET /orders")
async def orders(db: Read, response: Response, limit: int = Query(3, ge=1), seen: str = Cookie("no")) -> View:
    """Has marks as defaults."""
    response.headers["x-limit"] = str(limit)
    return View(sku=str(limit), note=seen)


@site.read("GET /pages")
async def pages(db: Read, page: Annotated[Page, Query()], other: Annotated[Page, Depends()]) -> View:
    """Has models that are no body."""
    return View(sku=str(page.limit), note=str(other.limit))


@site.read("GET /html/{sku}")
async def html(db: Read, sku: str = Path(min_length=2)) -> HTMLResponse:
    """Is no JSON; the path parameter has a rule as its default."""
    return HTMLResponse(f"<p>{sku}</p>")


@site.read("GET /public", response_model=View)
async def public(db: Read) -> Secret:
    """Shows less than it returns."""
    return Secret(sku="a")


@site.read("GET /stream")
async def stream(db: Read) -> Response:
    """Returns what has no bytes."""
    return StreamingResponse(iter([b"x"]))


@site.write("POST /marked")
async def marked(tx: Tx, body: Annotated[Order, Body()]) -> View:
    """Marks its body as one."""
    runs.append("marked")
    return View(sku=body.sku)


@site.write("POST /outer")
async def outer(tx: Tx, body: Order) -> View:
    """Runs other verbs inside its transaction."""
    inner: Any = place, orders  # As untyped code calls them: the types ask for the Response too.
    await inner[0](tx, body)
    return View.model_validate(await inner[1](tx))


app = App(modules=[site])


async def twice(world: World, path: str, body: Any, **headers: str) -> tuple[Any, Any]:
    """The same request two times under one key: the first answer and its replay."""
    runs.clear()
    first = await world.request("POST", path, body, key="k", headers=headers)
    return first, await world.request("POST", path, body, key="k", headers=headers)


class TestResponseParameter:
    async def test_status_headers_and_cookies_reach_the_client_and_are_replayed(self) -> None:
        """What the handler set comes with the answer, byte for byte again with the key, and the handler ran once."""
        async with running(app) as world:
            first, again = await twice(world, "/orders", {"sku": "a"})

            assert (first.status, first.json) == (202, {"sku": "a", "note": ""})
            assert (first.headers["x-run"], first.headers["content-type"]) == ("1", "application/json")
            assert first.headers["set-cookie"].startswith("seen=1")
            assert again.headers == {**first.headers, "idempotent-replayed": "true"}
            assert (again.status, again.body, runs) == (first.status, first.body, ["a"])

    async def test_a_run_that_was_rolled_back_leaves_no_header(self) -> None:
        """Each run has a Response of its own: what the first one set reaches nobody."""
        async with running(app) as world:
            runs.clear()
            answer = await world.post("/orders", {"sku": "conflict"})

            assert runs == ["conflict", "conflict"]
            assert (answer.status, answer.headers["x-run"], "x-first-run" in answer.headers) == (202, "2", False)

    async def test_a_dependencys_headers_are_the_requests(self) -> None:
        """They come with every answer, a replay included, below those that the handler set itself."""
        async with running(app) as world:
            for answer in await twice(world, "/signed", {"sku": "a"}):
                assert answer.status == 201
                assert answer.json["note"] == "li"
                assert (answer.headers["x-request"], answer.headers["x-both"]) == ("dependency", "handler")
                assert answer.headers["set-cookie"].startswith("session=s")

    async def test_an_answer_without_content_has_headers_too(self) -> None:
        """204 with what the handler set."""
        async with running(app) as world:
            answer = await world.post("/nothing")

            assert (answer.status, answer.body, answer.headers["x-nothing"]) == (204, b"", "yes")

    async def test_a_read_has_one_too(self) -> None:
        """A read sets headers, and takes marks from query and cookie."""
        async with running(app) as world:
            plain = await world.get("/orders")
            asked = await world.get("/orders?limit=5", headers={"cookie": "seen=yes"})
            wrong = await world.get("/orders?limit=0")

            assert (plain.json, plain.headers["x-limit"]) == ({"sku": "3", "note": "no"}, "3")
            assert (asked.json, asked.headers["x-limit"]) == ({"sku": "5", "note": "yes"}, "5")
            assert (wrong.status, wrong.json["code"]) == (422, "out_of_range")


class TestReturnedResponse:
    async def test_it_is_the_answer_and_is_replayed(self) -> None:
        """Status, headers and bytes of a returned Response are the answer, stored like any other."""
        async with running(app) as world:
            first, again = await twice(world, "/made", {"sku": "a"})

            assert (first.status, first.json, first.headers["x-made"]) == (207, {"run": 1}, "yes")
            assert (again.status, again.body, again.headers["x-made"]) == (207, first.body, "yes")
            assert first.headers["content-length"] == str(len(first.body))

    async def test_it_may_be_one_of_several_answers(self) -> None:
        """A union of a view, a Response and a refusal gives each as what it is; the refusal rolls back."""
        async with running(app) as world:
            view, away, gone = [await world.post("/either", {"sku": sku}) for sku in ("a", "away", "gone")]

            assert (view.status, view.json["sku"]) == (201, "a")
            assert (away.status, away.headers["location"]) == (303, "/elsewhere")
            assert (gone.status, gone.json["code"], gone.json["sku"]) == (409, "sold_out", "gone")

    async def test_it_need_not_be_json(self) -> None:
        """HTML is sent as HTML; a rule that stands as the default of a path parameter holds."""
        async with running(app) as world:
            answer = await world.get("/html/ab")
            short = await world.get("/html/a")

            assert (answer.body, answer.headers["content-type"]) == (b"<p>ab</p>", "text/html; charset=utf-8")
            assert (short.status, short.json["code"]) == (422, "too_short")

    async def test_a_stream_is_refused_with_the_cure_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """What has no bytes yet is the developer's to change: 500 for the client, the cure in the log."""
        async with running(app) as world:
            answer = await world.get("/stream")

            assert (answer.status, answer.json["code"]) == (500, "response_refused")
            assert "it is a stream or a file" in caplog.text
            assert "return a Response whose body is bytes" in caplog.text

    async def test_a_response_model_hides_the_rest(self) -> None:
        """`response_model` is what clients see: a field beyond it is not sent."""
        async with running(app) as world:
            assert (await world.get("/public")).json == {"sku": "a", "note": ""}

    @pytest.mark.parametrize("option", ["response_class", "response_model_exclude_none"])
    def test_an_option_that_would_be_ignored_is_refused(self, option: str) -> None:
        """Options that would say how FastAPI writes an answer are refused at import."""
        declare: Any = Module("wrong").read

        with pytest.raises(Declared, match=option):
            declare("GET /x", **{option: True})(public.function)


class TestRequest:
    async def test_a_handler_gets_the_request(self) -> None:
        """`request: Request` is the request itself, with its body still to be read."""
        async with running(app) as world:
            answer = await world.post("/raw", b"abc", headers={"note": "n"})

            assert (answer.status, answer.json) == (201, {"sku": "abc", "note": "POST /raw n"})

    @pytest.mark.parametrize(
        ("path", "kind", "bodies"),
        [
            ("/raw", "text/plain", (b"a", b"b")),
            ("/plain", "application/json", (b'{"sku":"a"}', b'{"sku":"b"}')),
            ("/marked", "application/json", (b'{"sku":"a"}', b'{"sku":"b"}')),
        ],
    )
    async def test_a_body_that_is_read_otherwise_belongs_to_the_key(
        self, path: str, kind: str, bodies: tuple[bytes, bytes]
    ) -> None:
        """Whoever reads the body, another one under the same key is refused, and the same one is replayed."""
        async with running(app) as world:
            first, again = await twice(world, path, bodies[0], **{"content-type": kind})
            other = await world.post(path, bodies[1], key="k", headers={"content-type": kind})

            assert (first.status, first.json["sku"], again.body, len(runs)) == (201, "a", first.body, 1)
            assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")

    async def test_models_from_the_query_are_no_body(self) -> None:
        """A model that a mark takes from elsewhere is not read from the body."""
        async with running(app) as world:
            answer = await world.get("/pages?limit=4")

            assert answer.json == {"sku": "4", "note": "4"}


class TestWithoutARequest:
    async def test_marks_give_their_values(self) -> None:
        """`app.run` gives 3 for `Query(3)`; what is given wins."""
        async with running(app) as world:
            assert (await world.run(orders)).sku == "3"
            assert (await world.run(orders, 4, seen="x")) == View(sku="4", note="x")

    async def test_a_call_inside_a_transaction_fills_them_in_too(self) -> None:
        """`await verb(tx, ...)` needs no Response, and gets the values of marks."""
        async with running(app) as world:
            assert (await world.post("/outer", {"sku": "a"})).json["sku"] == "3"

    async def test_what_only_a_request_has_must_be_given(self) -> None:
        """A dependency and a required value are asked for by name."""
        async with running(app) as world:
            with pytest.raises(TypeError, match="'who'"):
                await world.run(place_signed, Order(sku="a"))
            with pytest.raises(TypeError, match="'sku'"):
                await world.run(html)
            assert (await world.run(place_signed, Order(sku="a"), who="me")).note == "me"

    async def test_a_returned_response_comes_back(self) -> None:
        """`app.run` returns a Response where the function did, a replay included; a refusal is raised."""
        async with running(app) as world:
            for _ in range(2):
                away = await world.run(either, Order(sku="away"), key="k")
                assert (away.status_code, away.headers["location"]) == (303, "/elsewhere")
            with pytest.raises(Refusal, match="none are left"):
                await world.run(either, Order(sku="gone"), key="g")


class TestBackgroundTasks:
    def test_a_task_that_a_crash_would_lose_is_refused(self) -> None:
        """`BackgroundTasks` lives in the memory of one process; the declaration is refused."""
        module = Module("wrong")

        with pytest.raises(Declared, match="background tasks"):

            @module.write("POST /x")
            async def write(tx: Tx, tasks: BackgroundTasks) -> View:
                """Never declared."""
                return View(sku=json.dumps({}))
