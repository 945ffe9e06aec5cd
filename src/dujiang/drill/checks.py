"""Checks: what must hold at the end of every run, whatever happened in it. Nobody has to write them.

    acked-not-lost     a call that was answered with success is there: asked again with its key it is replayed, not done anew
    key-is-one-request another request under a used key is refused
    replay-stable      the same key gives the same bytes, also to tries whose answer never arrived
    nothing-lost       every committed event reached every subscription: done, or dead with a reason
    nothing-dead       without poison nothing dies, but what a handler refused
    effect-once        no piece of work was done twice
    fired-once         every time of a schedule made one job, but what its rule gives up
    order              events with one key took effect in the order of their commits, unless the broker lost one of that key
    nothing-stuck      when everything has healed, nothing is left to do
    no-surprise        no background task failed, and nobody was told of an inner error (500)
    external-keyed     every run for one message calls the world outside with the same keys, so that it can tell a repeat
    held-transaction   no transaction goes without a statement for longer than a second of its machine's time
    read-your-writes   whoever has the answer of a write is given it by caches too: reads.py
    stale-for-ever     when everything has healed, caches give what the database has
    the user's own     every @module.invariant

Each violation names the operation or the rows, and the moment.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dujiang.backends.table import load
from dujiang.drill.asking import asked_again, code_of, once_more, same_meaning
from dujiang.drill.state import changed, tables_of
from dujiang.drill.timetable import timed
from dujiang.drill.versions import unheard
from dujiang.drill.violation import Violation
from dujiang.drill.world import DEADLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dujiang.drill.clients import Clients, Operation
    from dujiang.drill.world import World

DRAIN_S = 120.0
DAY_US = 23 * 3_600_000_000
AFTER_CLEANING_S = 35.0
KEYS_LATER = 6
REPLAYS_MAX = 5
ROWS_SHOWN = 5

UNHANDLED = """SELECT o.seq, o.topic, s.name FROM dj_outbox o
  JOIN dj_subscription s ON s.topic = o.topic AND s.active = 1
  WHERE NOT EXISTS (SELECT 1 FROM dj_inbox i WHERE i.message_id = o.message_id AND i.sub_id = s.sub_id)
    AND NOT EXISTS (SELECT 1 FROM dj_dead d WHERE d.seq = o.seq AND d.sub_id = s.sub_id)
    AND NOT EXISTS (SELECT 1 FROM dj_ready r WHERE r.seq = o.seq AND r.sub_id = s.sub_id)
    AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.seq = o.seq AND u.sub_id = s.sub_id) ORDER BY o.seq"""
HALTED = (
    """SELECT DISTINCT s.name FROM dj_hold h JOIN dj_subscription s ON s.sub_id = h.sub_id WHERE h.okey = char(1)"""
)
PASSED = """SELECT s.name, d.okey, d.seq, o.seq, d.sub_id FROM dj_dead d JOIN dj_subscription s ON s.sub_id = d.sub_id
  JOIN dj_outbox o ON o.topic = s.topic AND o.okey = d.okey AND o.seq > d.seq
  JOIN dj_inbox i ON i.message_id = o.message_id AND i.sub_id = d.sub_id WHERE d.okey IS NOT NULL"""
DEAD = """SELECT s.name, d.reason, d.error, d.seq, d.dead_id, d.message_id, d.sub_id FROM dj_dead d
  JOIN dj_subscription s ON s.sub_id = d.sub_id ORDER BY d.dead_id"""
DONE_TWICE = """SELECT s.name, c.seq, count(*) FROM dj_outcome c JOIN dj_subscription s ON s.sub_id = c.sub_id
  WHERE c.state = 1 GROUP BY s.name, c.seq HAVING count(*) > 1 ORDER BY c.seq"""
WAITING = """SELECT s.name, 'ready', r.seq, r.attempt FROM dj_ready r JOIN dj_subscription s ON s.sub_id = r.sub_id
  WHERE NOT EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = r.sub_id AND (h.okey = r.okey OR h.okey < '\x02'))
  UNION ALL SELECT s.name, 'running', u.seq, u.attempt FROM dj_running u JOIN dj_subscription s ON s.sub_id = u.sub_id"""
REDELIVER = """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, run_at)
  SELECT s.sub_id, o.seq, CASE WHEN s.ordered = 1 THEN o.okey END, '', 0, 0, o.message_id, 0
  FROM dj_outbox o JOIN dj_subscription s ON s.topic = o.topic AND s.active = 1
  JOIN dj_inbox i ON i.message_id = o.message_id AND i.sub_id = s.sub_id
  WHERE NOT EXISTS (SELECT 1 FROM dj_ready r WHERE r.sub_id = s.sub_id AND r.seq = o.seq)"""
ORDERED = """SELECT s.sub_id, s.name, o.message_id, o.okey, o.seq FROM dj_outbox o
  JOIN dj_subscription s ON s.topic = o.topic AND s.ordered = 1 WHERE o.okey IS NOT NULL ORDER BY o.seq"""
QUESTIONS = (UNHANDLED, HALTED, PASSED, DEAD, DONE_TWICE, WAITING, ORDERED)


async def judged(world: World, clients: Clients) -> list[Violation]:
    """Everything that does not hold, once the world has healed; the loop goes on meanwhile."""
    found: list[Violation] = []
    settled = await world.settled(DRAIN_S)
    world.mark("judged")
    found.extend([each async for each in timed(world)])
    found.extend(unanswered(clients))
    if not settled:
        found.extend(stuck(world))
    found.extend(surprises(world, clients))
    found.extend(holding(world))
    found.extend(work(world))
    found.extend(order(world))
    if not settled:
        return [*found, *keyed(world)]
    found.extend(halted(world))
    if any(left == DEADLY for left in world.poison.values()):
        await replay_the_dead(world)
        found.extend(work(world))
        found.extend(order(world))
    found.extend([each async for each in world.reads.judged()])
    found.extend([each async for each in repeated(world, clients)])
    found.extend([each async for each in another_under_its_key(world, clients)])
    found.extend([each async for each in laws(world)])
    if world.tape.pick("later", 3) == 0:
        found.extend([each async for each in a_day_later(world, clients)])
    found.extend(keyed(world))
    return distinct(found)


def keyed(world: World) -> Iterator[Violation]:
    """Calls of externals whose repeats the other side could not tell."""
    for said, place in world.outside.unkeyed():
        yield Violation("external-keyed", said, place)


def holding(world: World) -> Iterator[Violation]:
    """Transactions that waited for something else than the database, with whatever they had locked."""
    for seconds, after, until in world.held[:ROWS_SHOWN]:
        between = f"after {after}" if after else "after its last statement" if not until else ""
        said = " ".join(filter(None, (between, f"until {until}" if until else "")))
        yield Violation("held-transaction", f"a transaction did nothing for {seconds:.1f} s {said}", after or until)


def distinct(violations: list[Violation]) -> list[Violation]:
    """Each once."""
    return list(dict.fromkeys(violations))


async def rehearse(world: World) -> None:
    """Ask every question of the end once, before anything has happened: copies then find the statements compiled."""
    for text in QUESTIONS:
        world.store.rows(text)
    world.open_work()
    tables_of(world)
    with suppress(Exception):  # A law may fail on an empty store; it is asked again when it counts.
        await world.audit()


async def replay_the_dead(world: World) -> None:
    """Cure what was poisoned and replay every dead letter, as an operator does."""
    world.poison = dict.fromkeys(world.poison, 0)
    for _ in range(REPLAYS_MAX):
        letters = [row[4] for row in world.store.rows(DEAD) if row[1] in ("attempts", "age")]
        if not letters:
            break
        world.note("replay", str(len(letters)))
        for dead_id in letters:
            await world.replay(dead_id)
        await world.settled(DRAIN_S)


async def repeated(world: World, clients: Clients) -> Any:
    """Every call asked again and every event delivered again: the answers are the same, and no row changes."""
    before = tables_of(world)
    for operation in clients.operations:
        async for each in asked_again(world.network, operation):
            yield each
    middle = tables_of(world)
    if said := changed(before, middle):
        yield Violation("effect-once", f"calls that were asked again with their keys changed something: {said}")
    again = world.store.deliver_again(REDELIVER)
    world.note("delivered again", str(again))
    if not await world.settled(DRAIN_S):
        yield Violation("nothing-stuck", f"{again} events that were delivered again are not all handled")
    elif said := changed(middle, tables_of(world)):
        yield Violation("effect-once", f"events that were delivered a second time changed something: {said}")


async def another_under_its_key(world: World, clients: Clients) -> Any:
    """A key that was used for one request must refuse another."""
    seen: dict[str, Operation] = {}
    for operation in clients.operations:
        flow, final = operation.request.flow, operation.final
        if not flow.takes_key or final is None or not 200 <= final.status < 300:
            continue
        first = seen.setdefault(flow.name, operation)
        if first is operation or same_meaning(first.request, operation.request):
            continue
        seen[flow.name] = operation
        answer = await once_more(world.network, operation, key=first.key)
        if answer is not None and answer.status != 422:
            said = f"{operation.says} under the key of {first.says} with other contents was answered {answer.status}, not 422"
            yield Violation("key-is-one-request", said)


async def a_day_later(world: World, clients: Clients) -> Any:
    """What must still be known after 23 hours: keys, and what was handled."""
    world.jumped_us = max(world.jumped_us, DAY_US)  # With what the machines have slept: a key lives for 24 hours.
    world.note("a day later")
    await world.loop.pause(AFTER_CLEANING_S)
    await world.settled(DRAIN_S)
    for operation in clients.operations[:KEYS_LATER]:
        async for each in asked_again(world.network, operation):
            yield Violation(each.invariant, f"{each.said} (23 hours later)")
    for each in work(world):
        yield Violation(each.invariant, f"{each.said} (23 hours later)")


def halted(world: World) -> Iterator[Violation]:
    """Subscriptions that one dead event has stopped, and events that were handled although their key is held."""
    holding = {verb.name for verb in world.cluster.app.verbs() if getattr(verb, "on_fail", "") == "halt"}
    for (name,) in world.store.rows(HALTED):
        if name not in holding:
            yield Violation("nothing-stuck", f"one dead event has stopped all of {name}")
    parking = {
        verb.name
        for verb in world.cluster.app.verbs()
        if getattr(verb, "ordered", False) and getattr(verb, "on_fail", "") == "park_key"
    }
    lost = world.lost_keys()
    for name, key, seq, later, sub_id in world.store.rows(PASSED):
        if name in parking and (sub_id, key) not in lost:
            yield Violation(
                "order", f"{name} handled event {later} of key {key} although event {seq} before it is dead"
            )


def unanswered(clients: Clients) -> Iterator[Violation]:
    """Calls that never got an answer although everything had healed."""
    for operation in clients.operations:
        if operation.final is None:
            said = f"{operation.says} got no final answer in {operation.tries} tries"
            last = operation.produced[-1] if operation.produced else None
            if last is not None:
                said += f"; the last was {last.status} {code_of(last)}"
            yield Violation("nothing-stuck", said)


def stuck(world: World) -> Iterator[Violation]:
    """What is left to do after the drain."""
    down = [machine.name for machine in world.machines.values() if not machine.ready]
    if down:
        why = "; ".join(sorted({getattr(world.refusals.get(name), "detail", "") for name in down} - {""}))
        said = f"{', '.join(down)} did not start again within {DRAIN_S:.0f} s"
        yield Violation("nothing-stuck", f"{said}: {why}" if why else said)
        return
    unrouted, ready, running = world.open_work()
    rows = world.store.rows(WAITING)[:ROWS_SHOWN]
    names = ", ".join(
        sorted({f"{name} event {seq} ({state}, attempt {attempt})" for name, state, seq, attempt in rows})
    )
    said = (
        f"{DRAIN_S:.0f} s after everything had healed {unrouted} events are unrouted, {ready} ready, {running} running"
    )
    yield Violation("nothing-stuck", f"{said}: {names}" if names else said)


def surprises(world: World, clients: Clients) -> Iterator[Violation]:
    """Background tasks that failed, and answers that are nobody's decision."""
    for crash in world.crashes[:ROWS_SHOWN]:
        yield Violation("no-surprise", f"a background task failed: {crash}")
    told = set()
    for operation in clients.operations:
        for answer in operation.produced:
            if answer.status >= 500 and answer.status not in (502, 503, 504) and operation.says not in told:
                told.add(operation.says)
                yield Violation("no-surprise", f"{operation.says} was answered {answer.status} {code_of(answer)}")


def work(world: World) -> Iterator[Violation]:
    """Events that are gone, dead or done twice."""
    for seq, topic, name in world.store.rows(UNHANDLED)[:ROWS_SHOWN]:
        yield Violation("nothing-lost", f"event {seq} ({topic}) was committed and never reached {name}")
    for seq, topic, reaction in list(unheard(world))[:ROWS_SHOWN]:
        said = f"event {seq} ({topic}) was committed, {reaction} of one version takes such, and no subscription is left that does"
        yield Violation("nothing-lost", said)
    poison = {what[1:] for what, left in world.poison.items() if left == DEADLY}
    for name, reason, error, seq, _, message_id, sub_id in world.store.rows(DEAD):
        if (message_id, sub_id) in poison:
            continue
        if reason in ("attempts", "age") or not error:
            yield Violation("nothing-dead", f"{name} gave up event {seq}: {reason}: {first_line(error)}")
        elif reason not in world.expected_deaths:
            yield Violation("nothing-dead", f"{name} buried event {seq}: {reason}: {first_line(error)}")
    for name, seq, count in world.store.rows(DONE_TWICE)[:ROWS_SHOWN]:
        yield Violation("effect-once", f"{name} did event {seq} {count} times")


def order(world: World) -> Iterator[Violation]:
    """Effects of one key that came in another order than their events.

    Of a key of which a broker lost a confirmed event it cannot be kept: what is published again comes late
    (messaging/reconcile.py).
    """
    lost = world.lost_keys()
    when: dict[tuple[bytes, int], int] = {}
    changes_of = load("database", "simulated:").changes_of
    for number, changeset in world.commits:
        for change in changes_of(changeset):
            if change.table == "dj_inbox" and change.op == "INSERT":
                when[change.new[0], change.new[1]] = number
    last: dict[tuple[int, str], tuple[int, int]] = {}
    for sub_id, name, message_id, key, seq in world.store.rows(ORDERED):
        handled = when.get((message_id, sub_id))
        if handled is None or (sub_id, key) in lost:
            continue
        before = last.get((sub_id, key))
        if before is not None and handled < before[0]:
            said = f"{name} handled event {seq} of key {key} before event {before[1]}, which was committed first"
            yield Violation("order", said)
        last[sub_id, key] = (handled, seq)


async def laws(world: World) -> Any:
    """The user's own laws that do not hold.

    They may rest on the order of a key, which the platform does not promise where a broker lost a confirmed event of it.
    """
    ordered = {sub_id for (sub_id,) in world.store.rows("SELECT sub_id FROM dj_subscription WHERE ordered = 1")}
    if any(sub_id in ordered for sub_id, _ in world.lost_keys()):
        world.note("laws", "not judged: a broker lost an event of an ordered reaction")
        return
    for violation in await world.audit():
        rows = "; ".join(str(row) for row in violation.rows[:ROWS_SHOWN])
        yield Violation(violation.invariant, f"{violation.name} found {len(violation.rows)} rows: {rows}")


def first_line(text: str) -> str:
    """The line of an error that says what it was."""
    lines = [line for line in str(text).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def by_kind(violations: list[Violation]) -> dict[str, list[Violation]]:
    """Violations by what was violated, in the order in which they were found."""
    found: dict[str, list[Violation]] = defaultdict(list)
    for violation in violations:
        found[violation.kind].append(violation)
    return dict(found)
