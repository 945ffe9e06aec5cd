"""Running: one run of a saga: from its claim to its end, to a wait, or to the first step that must be tried again.

    local step      one transaction: effect, result, state, progress; the last one ends the claim too
    step outside    transaction: "started" ──► the call, with its key ──► transaction: what came of it
    wait            one transaction: the event is there: on; its time is over: back; neither: parked until then
    undo            as its step: one transaction, or a call and a transaction

Each of these transactions compares two things before it commits: that the claim is still ours (the fence, or the
acknowledgement), and that the row is where this run has left it (`rev`). So of two runs, of which one was taken for dead, one
goes on; and an effect of the other that lies in the database is rolled back with its progress.

"started" is committed before the call and not after, because a crash in between must not look as if nothing had happened: a
saga that turns back undoes also what was only started, and says that the outcome is not known.

Whether an error means "again", "back" or "stuck" is decided here:

    error of              before the pivot          behind it                    of an undo
    refusal, Failed       back                      stuck                        stuck
    others, Unknown       again; at the end back    again, as long as it takes   again; at the end stuck

An error that says nothing about the step (the database is away) is never held against it. Stuck is a dead letter of the
saga's work, so it shows where all that failed shows, and an operator takes it on (operations.py). A step that succeeds after
failures gives the work back with a new account of tries: they are counted for each step. Refused: a row in dj_ready for each
step. It would cost a claim and an acknowledgement for each, and buy nothing.
testing/conformance/sagas.py holds these on every broker and database, tests/drill/test_sagas.py kills in simulations.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dujiang.data.transaction import Piece, transact
from dujiang.kernel.context import changed, current
from dujiang.messaging.closing import Closing
from dujiang.messaging.work import STATE_DONE, ack_pieces, still_running
from dujiang.resilience.retry import Snooze
from dujiang.saga import store
from dujiang.saga.definition import Step, Wait
from dujiang.saga.held import Hold, SagaCall, key_of
from dujiang.saga.kind import Moved, SagaStuck, SagaUnreadable, StepUnknown, elsewhere, hopeless
from dujiang.saga.outcome import Failed, Ok, Unknown
from dujiang.saga.progress import (
    COMPENSATED,
    DONE,
    FAILED,
    FINISHED,
    FORWARD,
    HEARD,
    OPEN,
    STARTED,
    TIMED_OUT,
    TURNED,
    UNDONE,
    UNKNOWN,
    Act,
    Progress,
    before_pivot,
    decided,
    turned,
)
from dujiang.telemetry.crash import crash_point, sometimes
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.message import Event
    from dujiang.messaging.tx import Tx
    from dujiang.messaging.work import Claim
    from dujiang.saga.kind import Kind

# How long a transaction of our own may take, beside the functions of steps.
OWN_S = 60.0
NEWER_WAIT = "5s"


class Run:
    """One run of one saga.

    Args:
        kind: What it is.
        database: Where it is.
        claim: Its claim.
    """

    def __init__(self, kind: Kind, database: Database, claim: Claim) -> None:
        self._kind = kind
        self._flow = kind.flow
        self._database = database
        self._claim = claim
        self._hold = Hold(claim, kind.name)
        self._node = current().node
        self.progress: Progress

    def __repr__(self) -> str:
        return f"<Run of {self._kind.name} {self._claim.message.seq}>"

    async def go(self) -> Closing:
        """Take the saga on as far as it goes; how its claim ends. Raises what a step raises that must be tried again."""
        found = await self._load()
        if found is None or found.phase not in OPEN:
            return Closing()
        self.progress = found
        while not self._hold.ended:
            try:
                await self._act(decided(self._flow, self.progress, self._node.clock.now_us()))
            except Moved:
                found = await self._load()
                if found is None or found.phase not in OPEN:
                    return Closing()
                self.progress = found
        return Closing(outcome=self._hold.outcome, ended=True)

    async def _load(self) -> Progress | None:
        saga_id = self._claim.message.seq
        found = await self._database.read(lambda connection: store.load(connection, saga_id))
        if found is None:
            return None
        if found.version > self._kind.version:
            raise Snooze(NEWER_WAIT, f"version {found.version} of {self._kind.name} {saga_id} is newer than this code")
        names = {part.name for part in self._flow.parts}
        needed = {found.step} - {""} if found.phase == FORWARD else found.effects()
        if needed - names:
            raise SagaUnreadable(saga=self._kind.name, saga_id=saga_id, step=min(needed - names))
        if found.version < self._kind.version:
            found = replace(found, data=self._kind.upgraded(found.data, found.version), version=self._kind.version)
        return found

    async def _act(self, act: Act) -> None:
        part = act.part
        if act.what == "end":
            await self._move(lambda now_us: self.progress.after(DONE, "", now_us, note="nothing is left to be done"))
        elif act.what == "back":
            await self._turn_back(TURNED, "" if part is None else part.name, act.why)
        elif isinstance(part, Wait):
            await self._wait(part)
        elif isinstance(part, Step) and act.what == "run":
            await self._run(part)
        elif isinstance(part, Step):
            await self._undo(part)

    # Steps ------------------------------------------------------------------------------------------------------------

    async def _run(self, step: Step[Any, Any]) -> None:
        """Take a step; before the pivot one that cannot be taken turns the saga back."""
        try:
            if step.forward.local:
                await self._local(step)
            else:
                await self._outside(step)
        except (Moved, SagaStuck):
            raise
        except Exception as error:
            if elsewhere(error):
                raise
            if not before_pivot(self._flow, self.progress):
                if hopeless(error):
                    raise self._stuck(step.name, store.said(error)) from error
                raise
            if not hopeless(error) and self._claim.attempt < (step.attempts or self._kind.attempts):
                raise
            await self._turn_back(FAILED if step.forward.local else UNKNOWN, step.name, store.said(error))

    async def _local(self, step: Step[Any, Any]) -> None:
        async def body(tx: Tx) -> Progress:
            state = self._state()
            with span("saga.step", operation=f"{self._kind.name}.{step.name}"):
                value = await step.forward.function(tx, state, **self._given(step.forward.asks))
            result, data = step.adapter.dump_json(value), self._flow.adapter.dump_json(state)
            crash_point("saga_step_done")
            follows = self._flow.following(step.name)
            after = self.progress.after(DONE, step.name, tx.now_us, result=result, step=follows, data=data)
            return self._close(tx, after)

        await self._transact(body, step.name, step.timeout_s)

    async def _outside(self, step: Step[Any, Any]) -> None:
        if not any(one.name == step.name and one.kind == STARTED for one in self.progress.records):
            await self._move(lambda now_us: self.progress.after(STARTED, step.name, now_us))
            if self._hold.ended:
                return
        state = self._state()
        outcome = await self._called(step, state, key=key_of(self.progress.saga_id, step.name))
        crash_point("saga_step_done")
        data = self._flow.adapter.dump_json(state)
        if isinstance(outcome, Ok):
            result, follows = step.adapter.dump_json(outcome.value), self._flow.following(step.name)
            await self._move(
                lambda now_us: self.progress.after(DONE, step.name, now_us, result=result, step=follows, data=data)
            )
        elif isinstance(outcome, Failed):
            if not before_pivot(self._flow, self.progress):
                raise self._stuck(step.name, outcome.why or "it has failed, and there is no way back")
            await self._turn_back(FAILED, step.name, outcome.why or f"{step.name} has failed")
        else:
            raise self._unknown(step.name, outcome)

    async def _called(self, step: Step[Any, Any], state: Any, *, key: str) -> Any:
        call = self._call(step.name, key=key)
        with self._within(call, step.timeout_s), span("saga.step", operation=call.subscription):
            return await step.forward.function(call, state, **self._given(step.forward.asks))

    # Undoing ----------------------------------------------------------------------------------------------------------

    async def _undo(self, step: Step[Any, Any]) -> None:
        """Undo a step; one that cannot be undone is for an operator."""
        raw = self.progress.result_of(step.name)
        sometimes("a step is undone")
        try:
            done = None if raw is None else step.adapter.validate_json(raw)
            undo = self._undo_local if step.back is not None and step.back.local else self._undo_outside
            await undo(step, done)
        except (Moved, SagaStuck):
            raise
        except Exception as error:
            if elsewhere(error):
                raise
            if hopeless(error) or self._claim.attempt >= self._kind.stuck_after:
                raise self._stuck(step.name, f"it cannot be undone: {store.said(error)}") from error
            raise

    async def _undo_local(self, step: Step[Any, Any], done: Any) -> None:
        back = step.back
        assert back is not None

        async def body(tx: Tx) -> Progress:
            state = self._state()
            with span("saga.undo", operation=f"{self._kind.name}.{step.name}"):
                await back.function(tx, state, done, **self._given(back.asks))
            crash_point("saga_comp_done")
            data = self._flow.adapter.dump_json(state)
            return self._close(tx, self.progress.after(UNDONE, step.name, tx.now_us, data=data))

        await self._transact(body, step.name, step.timeout_s)

    async def _undo_outside(self, step: Step[Any, Any], done: Any) -> None:
        back, state = step.back, self._state()
        assert back is not None
        saga_id = self.progress.saga_id
        call = self._call(
            f"{step.name}.undo", key=key_of(saga_id, step.name, undo=True), undoes=key_of(saga_id, step.name)
        )
        with self._within(call, step.timeout_s), span("saga.undo", operation=call.subscription):
            outcome = await back.function(call, state, done, **self._given(back.asks))
        crash_point("saga_comp_done")
        if isinstance(outcome, Failed):
            raise self._stuck(step.name, f"it cannot be undone: {outcome.why}")
        if isinstance(outcome, Unknown):
            raise self._unknown(step.name, outcome)
        data = self._flow.adapter.dump_json(state)
        await self._move(lambda now_us: self.progress.after(UNDONE, step.name, now_us, data=data))

    # Waiting ----------------------------------------------------------------------------------------------------------

    async def _wait(self, wait: Wait[Event]) -> None:
        tenant, key = str(self._claim.message.headers.get("tenant", "")), self.progress.key
        at = (self._claim.sub_id, tenant, key)

        async def body(tx: Tx) -> Progress:
            await store.alone_on(tx, self._database, *at)
            rows = await tx.fetch(store.ARRIVED, *at, wait.event.event_name)
            until_us = self.progress.until_us or tx.now_us + int(wait.within_s * 1e6)
            back = before_pivot(self._flow, self.progress)
            due_us = min(until_us, self.progress.deadline_us) if back else until_us
            if rows:
                return self._hear(tx, wait, at, rows[0])
            if tx.now_us < due_us:
                return self._park(tx, wait, until_us, due_us)
            if not back:
                raise self._stuck(wait.name, f"{wait.event.event_name} has not come in time, and there is no way back")
            why = f"{wait.event.event_name} has not come in time"
            return self._close(tx, turned(self.progress, TIMED_OUT, wait.name, why, tx.now_us))

        await self._transact(body, wait.name, OWN_S)

    def _hear(self, tx: Tx, wait: Wait[Event], at: tuple[int, str, str], row: Any) -> Progress:
        message_id, version, payload = bytes(row[0]), row[1], bytes(row[2])
        state = self._state()
        if wait.take is not None:
            try:
                wait.take(state, wait.event.from_bytes(payload, version))
            except Exception as error:
                raise self._stuck(wait.name, store.said(error)) from error
        taken = (*at, wait.event.event_name, message_id)
        tx.close_with(Piece("saga_heard", store.HEARD, taken, expect=1, otherwise=Moved))
        data = self._flow.adapter.dump_json(state)
        follows = self._flow.following(wait.name)
        after = self.progress.after(HEARD, wait.name, tx.now_us, note=message_id.hex(), step=follows, data=data)
        return self._close(tx, after)

    def _park(self, tx: Tx, wait: Wait[Event], until_us: int, due_us: int) -> Progress:
        progress = self.progress
        row = (progress.saga_id, progress.rev, wait.event.event_name, until_us, tx.now_us)
        tx.close_with(Piece("saga_waits", store.WAITS, row, expect=1, otherwise=Moved))
        self._give_back(tx, due_us)
        return replace(progress, until_us=until_us)

    # Transitions ------------------------------------------------------------------------------------------------------

    def _close(self, tx: Tx, after: Progress) -> Progress:
        """Let a transaction take the saga on, and end the claim if that was the last, or a new account of tries is due."""
        ends = decided(self._flow, after, tx.now_us).what == "end"
        if ends:
            after = replace(after, phase=FINISHED if after.phase == FORWARD else COMPENSATED)
        expires_us = tx.now_us + self._kind.keep_us if ends else None
        for piece in store.advance_pieces(self.progress, after, tx.now_us, expires_us, Moved):
            tx.close_with(piece)
        if ends:
            self._hold.ended, self._hold.outcome = True, "done"
            for piece in ack_pieces(self._database, self._kind.name, [self._claim], STATE_DONE, tx.now_us, 0):
                tx.close_with(piece)
        elif self._claim.attempt > 1:
            self._give_back(tx, tx.now_us)
        return after

    def _give_back(self, tx: Tx, due_us: int) -> None:
        """Let a transaction put the work back until a time."""
        self._hold.ended, self._hold.outcome = True, "snoozed"
        tx.close_with(store.park_piece(self._claim, due_us))
        tx.close_with(ack_pieces(self._database, self._kind.name, [self._claim], STATE_DONE, tx.now_us, 0)[0])

    async def _move(self, after: Callable[[int], Progress]) -> None:
        """A transition without any effect of a step."""

        async def body(tx: Tx) -> Progress:
            return self._close(tx, after(tx.now_us))

        await self._transact(body, "", OWN_S)

    async def _turn_back(self, kind: int, name: str, why: str) -> None:
        sometimes("a saga turns back")
        await self._move(lambda now_us: turned(self.progress, kind, name, why, now_us))

    async def _transact(self, body: Callable[[Tx], Awaitable[Progress]], name: str, limit_s: float) -> None:
        """Run a transition in a transaction of its own; afterwards the saga is where that left it."""
        runtime, hold, rev = current().runtime, self._hold, self.progress.rev

        async def again(tx: Tx) -> Progress:
            hold.ended = False  # An earlier run of this transaction may have been sent back.
            return await body(tx)

        async def settle(connection: Connection) -> bool:
            if hold.ended:
                return not await still_running(connection, self._claim)
            found = await store.load(connection, self._claim.message.seq)
            return found is not None and found.rev > rev

        call = self._call(name, key="")
        try:
            with self._within(call, limit_s):
                self.progress = await transact(
                    self._database,
                    lambda connection, now_us: runtime.make_tx(connection, now_us, self._claim.message),
                    again,
                    what=call.subscription,
                    settle=settle,
                )
        except BaseException:
            hold.ended = False
            raise

    # What functions get -----------------------------------------------------------------------------------------------

    def _state(self) -> Any:
        """The state, made anew: a transaction that runs again must not see what the run before has changed."""
        return self._flow.adapter.validate_json(self.progress.data)

    @contextmanager
    def _within(self, call: SagaCall, limit_s: float) -> Iterator[None]:
        """A block of its own time, in which transactions carry the fence."""
        deadline = self._node.clock.monotonic() + limit_s
        with changed(call=call, deadline=deadline), self._node.limits.within(limit_s):
            yield

    def _given(self, asks: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._kind.given[name] for name in asks if name in self._kind.given}

    def _call(self, name: str, *, key: str, undoes: str = "") -> SagaCall:
        return SagaCall(
            key=key,
            attempt=self._claim.attempt,
            now_us=self._node.clock.now_us(),
            subscription=f"{self._kind.name}.{name}" if name else self._kind.name,
            message=self._claim.message,
            undoes=undoes,
            hold=self._hold,
        )

    # Errors -----------------------------------------------------------------------------------------------------------

    def _stuck(self, step: str, why: str) -> SagaStuck:
        return SagaStuck(saga=self._kind.name, saga_id=self.progress.saga_id, step=step, why=why)

    def _unknown(self, step: str, outcome: Any) -> StepUnknown:
        why = outcome.why if isinstance(outcome, Unknown) else f"it returned {type(outcome).__name__}"
        return StepUnknown(saga=self._kind.name, saga_id=self.progress.saga_id, step=step, why=why or "it was not said")
