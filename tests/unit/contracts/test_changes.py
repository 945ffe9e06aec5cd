"""Changes: each line says what changed, whom it breaks and how to cure it; what is harmless is called so."""

from __future__ import annotations

import json
from typing import Any

from dujiang import App, Event, Id, Job, Model, Module, Tx, key
from dujiang.cli.contracts import reader_of
from dujiang.contracts.changes import Change, changes
from dujiang.contracts.snapshot import joined, snapshot_of


class Order(Model):
    """A body."""

    sku: str


class OrderWithNote(Model):
    """A body with one more, optional, field."""

    sku: str
    note: str = ""


class OrderWithPrice(Model):
    """A body with one more, required, field."""

    sku: str
    price: int


class Placed(Event, name="Placed"):
    """The event as it was first."""

    n: Id = key()
    total: int


class Cents(Event, name="Placed", version=2):
    """Version 2 of it, with a step."""

    n: Id = key()
    cents: int


@Cents.upcast(1)
def to_cents(payload: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had whole euros."""
    return {"n": payload["n"], "cents": payload["total"] * 100}


class Wrong(Event, name="Placed", version=2):
    """Version 2 of it, with a step that reads what was never there."""

    n: Id = key()
    cents: int


@Wrong.upcast(1)
def from_nowhere(payload: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no `amount`."""
    return {"n": payload["n"], "cents": payload["amount"]}


class Unsaid(Event, name="Placed"):
    """The new form by somebody who forgot the version."""

    n: Id = key()
    cents: int


class Wider(Event, name="Placed"):
    """A total may be missing now, under the same version."""

    n: Id = key()
    total: int | None


class Noted(Event, name="Placed"):
    """One optional field more."""

    n: Id = key()
    total: int
    note: str = ""


class Rekeyed(Event, name="Placed"):
    """Kept in order by another field."""

    n: Id
    total: int = key()


class Renamed(Event):
    """The first form under another name."""

    n: Id = key()
    total: int


def app_of(
    event: type[Event] = Placed,
    body: type[Model] = Order,
    answer: type[Model] = Order,
    *,
    route: str = "POST /orders",
    **named: str,
) -> App:
    """An app with one write and one reaction."""
    module = Module("shop")

    async def place(tx: Tx, body: Model) -> Model:
        raise NotImplementedError

    async def count(tx: Tx, event: Event) -> None:
        raise NotImplementedError

    place.__annotations__.update(body=body, **{"return": answer})
    count.__annotations__["event"] = event
    module.write(route, name=named.get("write", "place"))(place)
    module.react(event, name=named.get("reaction", "count"))(count)
    return App(modules=[module])


def between(old: App, new: App) -> list[Change]:
    """The changes of what the reaction and the route of these apps promise."""
    one, other = snapshot_of(old), snapshot_of(new)
    for each in (one, other):  # This file names all the classes; an app's events are those of its own reaction here.
        wanted = {entry["event"] for entry in each["reactions"].values()}
        each["events"] = {name: entry for name, entry in each["events"].items() if name in wanted}
    return changes(one, other, reader_of(new))


class TestEvents:
    def test_nothing_is_nothing(self) -> None:
        """Two snapshots of one app are equal, and so are their texts."""
        assert between(app_of(), app_of()) == []
        assert json.dumps(snapshot_of(app_of())) == json.dumps(snapshot_of(app_of()))

    def test_an_optional_field_is_harmless(self) -> None:
        """It is named as what it is, and nobody is hurt."""
        (found,) = between(app_of(), app_of(Noted))

        assert (found.breaks, found.subject, found.what) == (False, "event Placed", "new field note")

    def test_a_new_form_without_a_version_breaks_both_ways(self) -> None:
        """What is stored lacks the new field, and an old process lacks the old one: each with its own cure."""
        stored, rolling = between(app_of(), app_of(Unsaid))

        assert "`cents`: it is required" in stored.what
        assert "what version 1 stored cannot be read" in stored.hurts
        assert "`class Placed(Event, version=2)` and `@Placed.upcast(1)`" in stored.cure
        assert "`total`: it is required" in rolling.what
        assert "old version cannot read" in rolling.hurts
        assert rolling.cure.startswith("keep the field, or raise the version")

    def test_a_wider_type_breaks_the_old_process_alone(self) -> None:
        """Everything stored is read; a process of the old version would bury what the new one publishes."""
        (found,) = between(app_of(), app_of(Wider))

        assert found.breaks
        assert "null is written" in found.what
        assert "stored" not in found.hurts
        assert "gives it back instead of burying it" in found.cure

    def test_a_version_with_its_step_is_harmless(self) -> None:
        """The step is tried with what version 1 may have stored; old processes give the new version back."""
        (found,) = between(app_of(), app_of(Cents))

        assert not found.breaks
        assert "gives it back" in found.hurts

    def test_a_step_that_fails_is_found_without_a_stored_message(self) -> None:
        """Made-up payloads of the old schema go through the steps and the new class."""
        found = next(each for each in between(app_of(), app_of(Wrong)) if each.breaks)

        assert "its steps from version 1 fail: KeyError: 'amount'" in found.what

    def test_going_back_a_version_breaks(self) -> None:
        """What the higher version has published nobody takes any more."""
        found = between(app_of(Cents), app_of())

        assert [each.what for each in found if each.breaks] == ["version 2 is 1 now"]

    def test_another_key_breaks_the_order(self) -> None:
        """The schema is the same, and still what waits is not ordered with what comes."""
        (found,) = between(app_of(), app_of(Rekeyed))

        assert found.breaks
        assert found.what == "its key was n and is total"

    def test_a_renamed_event_is_recognised(self) -> None:
        """The cure names the class that has the same form under another name; the reaction says it too."""
        found = between(app_of(), app_of(Renamed))
        gone = next(each for each in found if each.subject == "event Placed")
        taker = next(each for each in found if each.subject == "reaction shop.count")

        assert "what waits for shop.count is stranded" in gone.hurts
        assert gone.cure == 'keep the name: `class Renamed(Event, name="Placed")`'
        assert taker.what == "took Placed and takes Renamed"

    def test_an_old_version_is_remembered_until_it_is_taken_out(self) -> None:
        """The file keeps version 1 when the code goes on: a step that is dropped later is missed."""
        kept = joined(snapshot_of(app_of()), snapshot_of(app_of(Cents)))

        class Later(Event, name="Placed", version=3):
            """Version 3, whose author thinks that nothing old is stored."""

            n: Id = key()
            cents: int

        found = changes(kept, snapshot_of(app_of(Later)))

        assert list(kept["events"]["Placed"]["versions"]) == ["1", "2"]
        assert any(each.breaks and "`cents`: it is required" in each.what for each in found)


class TestNames:
    def test_a_reaction_that_is_gone_strands_its_work(self) -> None:
        """The cure says how a new name is given."""
        found = next(each for each in between(app_of(), app_of(reaction="tally")) if each.breaks)

        assert (found.subject, found.what) == ("reaction shop.count", "is gone")
        assert 'renamed={"shop.count": "new.name"}' in found.cure

    def test_an_operation_of_another_name_forgets_its_idempotency_keys(self) -> None:
        """The route is the same; a retry across the deploy would be done twice."""
        (found,) = between(app_of(), app_of(write="order"))

        assert found.breaks
        assert "a second time" in found.hurts
        assert found.cure == 'keep the stored name: `name="place"`'


def with_job(function: Any, name: str = "send") -> App:
    """An app with one job."""
    module = Module("mail")
    module.accept(name=name)(function)
    return App(modules=[module])


class TestJobs:
    def test_arguments_are_judged_as_events_are(self) -> None:
        """A new argument with a default is harmless; without one, what waits cannot be read; a name that is gone strands."""

        async def send(job: Job, order: Order) -> None:
            """First."""

        async def noted(job: Job, order: Order, note: str = "") -> None:
            """With a default."""

        async def priced(job: Job, order: Order, price: int) -> None:
            """Without one."""

        before = snapshot_of(with_job(send))
        harmless = changes(before, snapshot_of(with_job(noted)))
        broken = changes(before, snapshot_of(with_job(priced)))
        gone = changes(before, snapshot_of(with_job(send, "post")))

        assert [(each.breaks, each.what) for each in harmless] == [(False, "its arguments")]
        assert [(each.breaks, each.what) for each in broken] == [
            (True, "`price`: it is required, and it is not written")
        ]
        assert [(each.breaks, each.subject) for each in gone] == [(True, "job mail.send"), (False, "job mail.post")]


class TestRoutes:
    def test_an_optional_field_of_a_body_is_harmless(self) -> None:
        """Old requests are taken."""
        (found,) = between(app_of(), app_of(body=OrderWithNote))

        assert not found.breaks

    def test_a_required_field_and_a_refused_one_break_clients(self) -> None:
        """A field more, that is required; and, the other way round, one that old clients still send."""
        more, less = between(app_of(), app_of(body=OrderWithPrice)), between(app_of(body=OrderWithNote), app_of())

        assert [(each.breaks, each.what) for each in more] == [
            (True, "body `price`: it is required, and it is not written")
        ]
        assert [(each.breaks, each.what) for each in less] == [
            (True, "body `note`: it is written, and unknown fields are refused")
        ]

    def test_an_answer_may_grow_and_may_not_shrink(self) -> None:
        """Clients skip what they do not know, and rely on what they know."""
        more, less = between(app_of(), app_of(answer=OrderWithNote)), between(app_of(answer=OrderWithNote), app_of())

        assert [each.breaks for each in more] == [False]
        assert [(each.breaks, each.what) for each in less] == [
            (True, "answer `note`: it is required, and it is not written")
        ]

    def test_a_route_that_is_gone_breaks_clients(self) -> None:
        """The old one is named; the new one is new."""
        found = between(app_of(), app_of(route="POST /purchases"))

        assert [(each.breaks, each.subject, each.what) for each in found] == [
            (True, "POST /orders", "is gone"),
            (False, "POST /purchases", "is new"),
        ]
