"""Judging: what must hold once everything has healed; the checks of the simulation, asked of real processes and tables.

nothing-stuck        a minute after the healing every event is handled, and every call has its final answer
acked-not-lost       each acknowledged call is asked again with its key, all of them: it is replayed, with its bytes
replay-stable        all tries of a call were answered with the same bytes
key-is-one-request   a key of another request was refused
nothing-lost         every committed event reached every subscription; nothing is dead but what a handler refused
effect-once          no event was done twice by one subscription
order                events of one key were done in the order of their commits, if their subscription is ordered
no-surprise          nobody was told of an inner error, and no process ended with one
the user's own       every @module.invariant, and the platform's laws
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.drill.asking import asked_again, code_of, same_meaning
from dujiang.drill.checks import DEAD, DONE_TWICE, UNHANDLED, first_line
from dujiang.drill.network import NoAnswer
from dujiang.drill.violation import Violation
from dujiang.drill.world import refusal_codes
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import all_of
from dujiang.testing.harness import OPEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from dujiang.drill.clients import Operation
    from dujiang.drill.real.flight import Flight
    from dujiang.drill.real.load import Call, Load
    from dujiang.drill.real.stage import Stage
    from dujiang.drill.workload.request import Request
    from dujiang.testing.harness import Response

STUCK_S = 60.0
LOOK_EVERY_S = 0.1
SHOWN = 5
ABREAST = 12
INTERNAL = 70
UNHANDLED_EVENTS = Sql("real_drill_unhandled", UNHANDLED, "Events that reached no end.")
DEAD_EVENTS = Sql("real_drill_dead", DEAD, "Dead events.")
TWICE_DONE = Sql("real_drill_twice", DONE_TWICE, "Events done twice.")
WRONG_ORDER = Sql(
    "real_drill_order",
    """SELECT name, okey, seq, before FROM (
         SELECT s.name, o.okey, o.seq, c.finished_us,
                lag(o.seq) OVER by_key AS before, lag(c.finished_us) OVER by_key AS before_us
         FROM dj_outcome c JOIN dj_outbox o ON o.seq = c.seq JOIN dj_subscription s ON s.sub_id = c.sub_id
         WHERE s.ordered = 1 AND o.okey IS NOT NULL AND c.state = 1
         WINDOW by_key AS (PARTITION BY c.sub_id, o.okey ORDER BY o.seq)) AS pairs
       WHERE finished_us < before_us LIMIT 20""",
    "Events of one key that an ordered subscription did before an earlier one.",
)


class Judge:
    """Judges one run.

    Args:
        stage: Healed.
        load: Ended.
        flight: Reads the tables.
    """

    def __init__(self, stage: Stage, load: Load, flight: Flight) -> None:
        self._stage = stage
        self._load = load
        self._flight = flight
        self.expected_deaths = refusal_codes()
        self.asked = 0
        self.drained_s = 0.0

    async def judged(self) -> list[Violation]:
        """Everything that does not hold."""
        found = [*self._unanswered(), *self._surprises(), *self._foreign_keys()]
        found += await self._stuck()
        found += [each async for each in self._tables()]
        found += await self._asked_again()
        found += await self._laws()
        return list(dict.fromkeys(found))

    # What clients saw -------------------------------------------------------------------------------------------------

    def _unanswered(self) -> Iterator[Violation]:
        silent = [call for call in self._load.calls if call.final is None]
        for call in silent[:SHOWN]:
            last = f"; the last was {call.produced[-1].status} {code_of(call.produced[-1])}" if call.produced else ""
            yield Violation(
                "nothing-stuck", f"{call.says} (key {call.key}) got no final answer in {call.tries} tries{last}"
            )

    def _surprises(self) -> Iterator[Violation]:
        told = Counter(
            f"{call.says.partition('?')[0]} was answered {answer.status} {code_of(answer)}"
            for call in self._load.calls
            for answer in call.produced
            if answer.status >= 500 and answer.status not in (502, 503, 504)
        )
        for said, count in told.most_common(SHOWN):
            yield Violation("no-surprise", f"{said}, {count} times")
        for process in self._stage.processes.values():
            if count := sum(code == INTERNAL or code < 0 for code in process.ended):
                yield Violation("no-surprise", f"{process.name} ended by itself {count} times: {process.ended}")

    def _foreign_keys(self) -> Iterator[Violation]:
        first = {call.key: call for call in reversed(self._load.calls) if call.form != "foreign key"}
        for call in self._load.calls:
            if call.form != "foreign key" or call.final is None:
                continue
            owner = first[call.key]
            if call.final.status != 422 and not same_meaning(owner.request, call.request):
                said = f"{call.says} under the key of {owner.says} was answered {call.final.status}, not 422"
                yield Violation("key-is-one-request", said)

    # What the tables say ----------------------------------------------------------------------------------------------

    async def _stuck(self) -> list[Violation]:
        clock = self._stage.clock
        began_s = clock.monotonic()
        left: Any = (1, 0, 0)
        while any(left) and clock.monotonic() - began_s < STUCK_S:
            try:
                left = tuple((await self._flight.rows(OPEN, clock.now_us()))[0])
            except DujiangError as error:
                left = (1, 0, str(error))
            await clock.sleep(LOOK_EVERY_S)
        self.drained_s = clock.monotonic() - began_s
        if not any(left):
            return []
        said = f"{STUCK_S:.0f} s after the healing {left[0]} events are unrouted, {left[1]} ready, {left[2]} running"
        return [Violation("nothing-stuck", said)]

    async def _tables(self) -> AsyncIterator[Violation]:
        for seq, topic, name in (await self._flight.rows(UNHANDLED_EVENTS))[:SHOWN]:
            yield Violation("nothing-lost", f"event {seq} ({topic}) was committed and never reached {name}")
        for name, reason, error, seq, *_ in await self._flight.rows(DEAD_EVENTS):
            if reason not in self.expected_deaths or not error:
                yield Violation("nothing-dead", f"{name} gave up event {seq}: {reason}: {first_line(error)}")
        for name, seq, count in (await self._flight.rows(TWICE_DONE))[:SHOWN]:
            yield Violation("effect-once", f"{name} did event {seq} {count} times")
        for name, key, seq, before in (await self._flight.rows(WRONG_ORDER))[:SHOWN]:
            yield Violation("order", f"{name} did event {seq} of key {key} before event {before}")

    async def _laws(self) -> list[Violation]:
        runtime = await self._flight.opened()
        return [
            Violation(each.invariant, f"{each.name} found {len(each.rows)} rows: {each.rows[:SHOWN]}")
            for each in await runtime.audit()
        ]

    # Every call again -------------------------------------------------------------------------------------------------

    async def _asked_again(self) -> list[Violation]:
        """Each call with its key once more; several at a time."""
        left = [call for call in self._load.calls if call.form != "foreign key" and call.request.flow.takes_key]
        left.reverse()
        found: list[Violation] = []

        async def ask() -> None:
            while left and len(found) < SHOWN * 4:
                call: Call = left.pop()
                self.asked += 1
                found.extend([each async for each in asked_again(self, call)])

        await all_of(*(ask() for _ in range(ABREAST)))
        return found

    async def exchange(self, place: int, request: Request, headers: dict[str, str], operation: Operation) -> Response:
        """One try at one process, for the checks. Raises NoAnswer."""
        names = self._load.doors
        name = names[(self.asked + place) % len(names)]
        answer = await self._load.send(name, request, headers.get("idempotency-key", operation.key))
        if answer.status in (408, 429, 503):
            raise NoAnswer(f"{answer.status} {code_of(answer)}")
        return answer

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await self._stage.clock.sleep(seconds)
