"""Laws: checked by audits, and again and again while the app works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dujiang import App, Module, Read
from dujiang.app.runtime import Runtime
from dujiang.kernel.errors import Declared
from dujiang.kernel.node import Node
from dujiang.settings import Settings
from dujiang.testing.clocks import JumpClock
from dujiang.testing.harness import World


class Books:
    """What a law looks at."""

    def __init__(self) -> None:
        self.wrong: list[dict[str, Any]] = []
        self.fails = False


def app_of(books: Books, every: str | None = "10s") -> App:
    """An app with one law over the books."""
    module = Module("books")

    @module.invariant("the books balance", every=every)
    async def the_books_balance(db: Read) -> list[Any]:
        if books.fails:
            raise ValueError("the page is torn")
        return list(books.wrong)

    return App(modules=[module])


async def checked(world: World, clock: JumpClock, after: int) -> Any:
    """The standing of the law once it was checked later than `after`; time jumps until it was."""
    standing = world.runtime.laws.standings["books.the_books_balance"]
    for _ in range(200):
        if standing.checked_us > after:
            break
        clock.jump(1.0)
        await clock.sleep(0)
        await world.open_work()
    return standing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with an operator's token."""
    (tmp_path / "operator.token").write_text("harness-operator-token")
    return tmp_path


async def test_a_law_with_a_time_is_checked_while_the_app_works(folder: Path) -> None:
    """A violation appears in the standings, the metric and the operations API, and goes when it is mended."""
    books, clock = Books(), JumpClock()
    node = Node.system()
    node.clock = clock
    async with Runtime(app_of(books), Settings(database=f"sqlite:///{folder}/app.db", data=folder), node) as runtime:
        world = World(runtime)
        books.wrong = [{"entry": 7}]
        standing = await checked(world, clock, 0)
        assert standing.rows == [{"entry": 7}]
        assert b'dujiang_invariant_violations{invariant="books.the_books_balance"} 1' in runtime.metrics.render()[0]
        told = await world.operate("GET", "/_dj/invariants")
        assert [(each["says"], each["rows"]) for each in told.json] == [("the books balance", [{"entry": 7}])]

        books.wrong = []
        standing = await checked(world, clock, standing.checked_us)
        assert standing.rows == []


async def test_a_check_that_fails_is_told_apart_from_one_that_holds(folder: Path) -> None:
    """An error in a law is in its standing, and the metric says that nothing is known."""
    books, clock = Books(), JumpClock()
    books.fails = True
    node = Node.system()
    node.clock = clock
    async with Runtime(app_of(books), Settings(database=f"sqlite:///{folder}/app.db", data=folder), node) as runtime:
        standing = await checked(World(runtime), clock, 0)

        assert standing.error == "the page is torn"
        assert b'dujiang_invariant_violations{invariant="books.the_books_balance"} -1' in runtime.metrics.render()[0]


async def test_an_audit_checks_the_same_law(folder: Path) -> None:
    """One definition serves the audit too, also without a time of its own."""
    books = Books()
    books.wrong = [{"entry": 7}]
    app = app_of(books, every=None)
    async with Runtime(app, Settings(database=f"sqlite:///{folder}/app.db", data=folder)) as runtime:
        found = await runtime.audit()

        assert [(each.invariant, each.rows) for each in found] == [("the books balance", [{"entry": 7}])]
        assert runtime.laws.standings == {}


def test_a_law_checked_without_pause_is_refused() -> None:
    """Less than a second between two checks would be a load of its own."""
    with pytest.raises(Declared, match="every 100ms"):
        app_of(Books(), every="100ms")
