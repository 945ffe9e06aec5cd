"""Adoption: the page's existing application gets events by its diff, on PostgreSQL and on SQLite; and mounts, both ways."""

from __future__ import annotations

import importlib
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI

from dujiang import App, Refusal, Settings, Transaction, Tx
from dujiang.kernel.context import current
from dujiang.systems.shop import shop
from dujiang.testing.harness import World
from tests.docs.markdown import ROOT, blocks, write_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PAGE = ROOT / "docs" / "howto" / "adopt.md"
DIFF = next(block.text for block in blocks(PAGE) if block.language == "diff")
CHANGED_LINES_MAX = 10
SameTx = Annotated[Tx, Transaction()]
ADDRESS = {"email": "li@example.org"}

# The page's engine wants a driver for SQLite that is not among our tools; on SQLite an engine of the standard library
# reads, behind the only method that the application uses.
READING_ENGINE = '''
"""The existing engine, reading only."""

import os
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.orm import Session


class Engine:
    def __init__(self) -> None:
        self.plain = create_engine(os.environ["DATABASE_URL"])
        self.disposed = False

    async def dispose(self) -> None:
        self.plain.dispose()


class Reading:
    def __init__(self, plain: Session) -> None:
        self.plain = plain

    async def scalars(self, query: Any) -> Any:
        return self.plain.scalars(query)


engine = Engine()


async def session() -> AsyncIterator[Reading]:
    with Session(engine.plain) as opened:
        yield Reading(opened)
'''


def changed(text: str, diff: str) -> str:
    """A file after the page's diff; every hunk must fit exactly once."""
    for hunk in re.split(r"^@@$\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@dataclass
class Site:
    """The changed application while it runs.

    Attributes:
        client: Sends requests.
        world: The running copy of the attached app.
        started: What had committed when an answer began, by path.
        url: The database.
    """

    client: httpx.AsyncClient
    world: World
    started: list[list[str]]
    url: str


def history(connection: sa.Connection) -> None:
    """What the application's own Alembic history has made."""
    models = importlib.import_module("existing.models")
    models.Base.metadata.create_all(connection)
    connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    connection.execute(sa.text("INSERT INTO alembic_version VALUES ('a1b2c3')"))


@asynccontextmanager
async def served(
    application: Any, lifespan: Any, seen: Callable[[], Awaitable[None]]
) -> AsyncIterator[tuple[Any, Any]]:
    """A client of an ASGI application, as a server would run it: lifespan first, its state in every request.

    Args:
        application: What is served.
        lifespan: Its lifespan.
        seen: Awaited when an answer begins.
    """
    async with lifespan as state:

        async def front(scope: Any, receive: Any, send: Any) -> None:
            async def watched(message: Any) -> None:
                if message["type"] == "http.response.start":
                    await seen()
                await send(message)

            await application({**scope, "state": dict(state)}, receive, watched)

        transport = httpx.ASGITransport(app=front, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client, state


@pytest.fixture
async def adopted(site: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """The application after the diff, on a database that its own history has made."""
    from sqlalchemy.ext.asyncio import create_async_engine

    write_files(PAGE, site)
    main = site / "existing" / "main.py"
    main.write_text(changed(main.read_text(), DIFF))
    url = database.replace("postgresql:", "postgresql+asyncpg:") or f"sqlite:///{site}/app.db"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("DUJIANG_DATABASE", database or url)
    monkeypatch.setenv("DUJIANG_DATA", str(site / "var"))
    if database:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(history)
        await engine.dispose()
    else:
        (site / "existing" / "db.py").write_text(READING_ENGINE)
        plain = sa.create_engine(url)
        with plain.begin() as opened:
            history(opened)
        plain.dispose()
    api = importlib.import_module("existing.main").api
    started: list[list[str]] = []
    db = importlib.import_module("existing.db")

    async def seen() -> None:
        async for session in db.session():
            customer = importlib.import_module("existing.models").Customer
            started.append(list((await session.scalars(sa.select(customer.email).order_by(customer.id))).all()))

    async with served(api, api.router.lifespan_context(api), seen) as (client, state):
        yield Site(client, World(state["dujiang"]), started, url)


class TestAdopt:
    def test_at_most_ten_lines_change(self) -> None:
        """The first event and the first verb cost an existing file at most ten lines."""
        lines = [line for line in DIFF.splitlines() if line[0] in "+-"]

        assert len(lines) <= CHANGED_LINES_MAX

    async def test_a_route_commits_before_its_answer_and_its_event_is_handled(self, adopted: Site) -> None:
        """When the answer begins, the existing engine sees the customer; then the reaction welcomes them."""
        answer = await adopted.client.post("/customers", json=ADDRESS)
        at_answer = adopted.started[-1]
        await adopted.world.settle()
        customers = await adopted.client.get("/customers")

        assert answer.status_code == 201
        assert at_answer == ["li@example.org"]
        assert customers.json() == {"li@example.org": True}

    async def test_a_route_that_raises_leaves_nothing(self, adopted: Site, caplog: pytest.LogCaptureFixture) -> None:
        """An HTTPException after the flush rolls customer and event back, and is answered as before.

        Method: the rollback belongs to the request; one that came later, when a generator is collected, would be logged.
        """
        answer = await adopted.client.post("/customers", json={"email": "bo@blocked.example"})
        await adopted.world.settle()

        assert (answer.status_code, answer.json()) == (403, {"detail": "this domain is blocked"})
        assert adopted.started[-1] == []
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []

    async def test_a_fault_in_a_route_leaves_nothing(self, adopted: Site) -> None:
        """A second customer of one address breaks the table's constraint: nothing of that request is kept."""
        first = await adopted.client.post("/customers", json=ADDRESS)
        second = await adopted.client.post("/customers", json=ADDRESS)
        third = await adopted.client.post("/customers", json={"email": "bo@example.org"})

        assert (first.status_code, third.status_code) == (201, 201)
        assert second.status_code >= 400
        assert adopted.started[-1] == ["li@example.org", "bo@example.org"]

    async def test_an_attached_verb_takes_keys_and_refuses_with_a_problem(self, adopted: Site) -> None:
        """A retry under a key gets the same bytes; a refusal is a problem document."""
        key = {"Idempotency-Key": "k1"}
        first = await adopted.client.post("/v2/customers", json=ADDRESS, headers=key)
        again = await adopted.client.post("/v2/customers", json=ADDRESS, headers=key)
        refused = await adopted.client.post("/v2/customers", json=ADDRESS)
        await adopted.world.settle()
        customers = await adopted.client.get("/customers")
        paths = (await adopted.client.get("/openapi.json")).json()["paths"]

        assert (first.status_code, first.content) == (201, again.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert (refused.status_code, refused.json()["code"]) == (409, "already_known")
        assert refused.headers["content-type"] == "application/problem+json"
        assert customers.json() == {"li@example.org": True}
        assert set(paths) == {"/customers", "/v2/customers"}

    async def test_the_existing_history_is_not_touched(self, adopted: Site) -> None:
        """The application's Alembic version stays; the platform keeps its own beside it."""

        async def versions(db: Any) -> list[str]:
            queries = ("SELECT version_num FROM alembic_version", "SELECT version_num FROM dj_version")
            return [(await db.execute(sa.text(query))).scalar_one() for query in queries]

        theirs, ours = await adopted.world.runtime.read(versions)

        assert theirs == "a1b2c3"
        assert ours

    async def test_operations_need_the_operators_token(self, adopted: Site) -> None:
        """Under `/_dj/` an attached app asks for the token; without a token file nobody is operator."""
        without_file = await adopted.client.get("/_dj/deadletters", headers={"Authorization": "Bearer "})
        folder = adopted.world.runtime.settings.data
        folder.mkdir(exist_ok=True)
        (folder / "operator.token").write_text("secret\n")
        without_token = await adopted.client.get("/_dj/deadletters")
        with_token = await adopted.client.get("/_dj/deadletters", headers={"Authorization": "Bearer secret"})

        assert [answer.status_code for answer in (without_file, without_token, with_token)] == [401, 401, 200]


class TestRoutes:
    async def test_two_parameters_of_a_request_share_a_transaction(self, tmp_path: Path) -> None:
        """A dependency and its route see one transaction; what they raise is answered with its code."""
        api, same = FastAPI(), []

        async def other(tx: SameTx) -> Any:
            return tx

        async def both(tx: SameTx, second: Any) -> None:
            same.append(tx is second)
            raise Refusal("not today")

        both.__annotations__["second"] = Annotated[
            Any, Depends(other)
        ]  # Its name is local; a string could not find it.
        api.add_api_route("/both", both, methods=["POST"])
        App(modules=[], settings=Settings(data=tmp_path)).attach(api)

        async with served(api, api.router.lifespan_context(api), nothing) as (client, _):
            answer = await client.post("/both")

        assert same == [True]
        assert (answer.status_code, answer.json()["code"]) == (409, "refused")

    async def test_a_transaction_inside_a_transaction_is_refused(self, tmp_path: Path) -> None:
        """A route that holds a transaction cannot open a second one: 500 `nested_transaction`, and nothing hangs."""
        api = FastAPI()

        async def twice(tx: SameTx) -> None:
            async with current().runtime.held():
                pass

        api.add_api_route("/twice", twice, methods=["POST"])
        App(modules=[], settings=Settings(data=tmp_path)).attach(api)

        async with served(api, api.router.lifespan_context(api), nothing) as (client, _):
            answer = await client.post("/twice")

        assert (answer.status_code, answer.json()["code"]) == (500, "nested_transaction")


class TestMounts:
    async def test_an_app_inside_fastapi_is_whole_and_guarded(self, tmp_path: Path) -> None:
        """Below a path of FastAPI an App takes orders, tells its health, and keeps operations for its operator."""
        app = App(modules=[shop], settings=Settings(data=tmp_path))
        outer = FastAPI(lifespan=app.lifespan)
        outer.mount("/shop", app)

        async with served(outer, outer.router.lifespan_context(outer), nothing) as (client, _):
            order = await client.post("/shop/orders/", json={"items": ["itemA"], "user_id": 1})
            live = await client.get("/shop/health/live")
            stock = await client.get("/shop/_dj/shop/stock/itemA")
            letters = await client.get("/shop/_dj/deadletters")

        assert (order.status_code, live.status_code) == (201, 200)
        assert (stock.status_code, letters.status_code) == (401, 401)

    async def test_the_shop_attached_keeps_its_operations_for_the_operator(self, tmp_path: Path) -> None:
        """A verb under `/_dj/` does not become an open route of the existing application."""
        api = FastAPI()
        App(modules=[shop], settings=Settings(data=tmp_path)).attach(api)

        async with served(api, api.router.lifespan_context(api), nothing) as (client, _):
            stock = await client.put("/_dj/shop/stock/itemA", json={"on_hand": 5})
            (tmp_path / "operator.token").write_text("secret")
            set_to = await client.put(
                "/_dj/shop/stock/itemA", json={"on_hand": 5}, headers={"Authorization": "Bearer secret"}
            )

        assert (stock.status_code, set_to.status_code) == (401, 200)

    @pytest.mark.filterwarnings("ignore:Using `httpx`")
    def test_starlettes_test_client_runs_an_app_with_fastapi_in_it(self, tmp_path: Path) -> None:
        """`TestClient(app)` starts a copy by the lifespan; a mounted FastAPI application answers below its path."""
        from starlette.testclient import TestClient

        inner = FastAPI()
        inner.add_api_route("/hello", lambda: "hello")
        app = App(modules=[shop], settings=Settings(data=tmp_path))
        app.mount("/old", inner)

        with TestClient(app, base_url="http://localhost") as client:
            order = client.post("/orders/", json={"items": ["itemA"], "user_id": 1})
            hello = client.get("/old/hello")

        assert (order.status_code, hello.status_code, hello.json()) == (201, 200, "hello")


async def nothing() -> None:
    """Watch nothing."""
