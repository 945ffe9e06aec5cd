"""Operations: what an operator does with a saga that cannot go on by itself.

    retry        what it was at is tried again, with a new account of tries
    skip         what it was at counts as done, or as undone, by hand
    compensate   it turns back now; behind the pivot too, where only what has an undo is undone
    resume       its state is replaced, then it is tried again

Each is one transaction that locks the saga and compares where it is, writes a record with the operator's reason, and puts the
work back. A run that is under way finds at its next transition that the row has moved, and reads it anew: so what runs now
cannot be skipped or edited (SagaRuns), only be asked to turn back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.saga import store
from dujiang.saga.kind import Moved
from dujiang.saga.progress import BACK, EDITED, FORWARD, OPEN, SKIPPED, TURNED, Progress, decided, turned
from dujiang.saga.view import COLUMNS, JOINED, OF_ID, SagaView, view_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.tx import Tx
    from dujiang.saga.verb import Orchestrated

LIMIT_MAX = 1000

LIST = Sql(
    "saga_list",
    f"""SELECT {COLUMNS} {JOINED} WHERE ($1 = '' OR n.name = $1) AND s.saga_id > $2 AND ($3 = 0 OR s.finished_us IS NULL)
        AND ($4 = 0 OR d.dead_id IS NOT NULL) ORDER BY s.saga_id LIMIT $5""",
    "Lists sagas: of one kind or all, those that are open, those that are stuck.",
)
LOCK = Sql(
    "saga_lock",
    """UPDATE dj_saga SET rev = rev WHERE saga_id = $1 RETURNING
         (SELECT name FROM dj_subscription n WHERE n.sub_id = dj_saga.sub_id), sub_id,
         (SELECT count(*) FROM dj_running u WHERE u.sub_id = dj_saga.sub_id AND u.seq = dj_saga.saga_id),
         (SELECT count(*) FROM dj_dead d WHERE d.sub_id = dj_saga.sub_id AND d.seq = dj_saga.saga_id)""",
    "Keeps a saga where it is; its kind, and whether it runs or is dead.",
)
WISH = Sql("saga_wish", "UPDATE dj_saga SET wish = 1 WHERE saga_id = $1 RETURNING 1", "Asks a saga to turn back.")
REVIVE = Sql(
    "saga_revive",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload, run_at)
       SELECT sub_id, seq, okey, tenant, 0, 0, message_id, topic, created_us, headers, payload, $3 FROM dj_dead
       WHERE sub_id = $1 AND seq = $2 RETURNING 1""",
    "Puts the work of a stuck saga back.",
)
UNBURY = Sql(
    "saga_unbury",
    "DELETE FROM dj_dead WHERE sub_id = $1 AND seq = $2 RETURNING 1",
    "Takes the dead letter of a saga away.",
)
AGAIN = Sql(
    "saga_again",
    "UPDATE dj_ready SET run_at = $3, attempt = 0 WHERE sub_id = $1 AND seq = $2 RETURNING 1",
    "Lets a saga be tried again now.",
)


@dataclass(eq=False, kw_only=True)
class SagaUnknown(DujiangError):
    """There is no such saga."""

    code = "saga_unknown"
    move = "choose"
    status = 404
    says = "no saga has the id {saga_id}"
    cure = "`dujiang sagas list` shows them; one that has ended is known for as long as `keep=` says"

    saga_id: int


@dataclass(eq=False, kw_only=True)
class SagaEnded(DujiangError):
    """The saga has ended; nothing is left to be decided."""

    code = "saga_ended"
    move = "choose"
    says = "saga {saga_id} is {state}"

    saga_id: int
    state: str


@dataclass(eq=False, kw_only=True)
class SagaRuns(DujiangError):
    """A process is at the saga just now."""

    code = "saga_runs"
    move = "choose"
    says = "saga {saga_id} runs just now, at {step}"
    cure = "wait until it is stuck or waits, then try again; `compensate` may be asked for at any time"

    saga_id: int
    step: str


@dataclass(eq=False, kw_only=True)
class StateRefused(DujiangError):
    """The new state of a saga is none that its code could read."""

    code = "saga_state_refused"
    move = "choose"
    status = 422
    says = "the state does not fit {saga}: {why}"
    cure = "begin with the state that `dujiang sagas show` prints"

    saga: str
    why: str


class Sagas:
    """The operations on sagas.

    Args:
        database: Where they are.
        transact: Runs a function in a transaction of its own.
        kinds: The app's sagas.
        wake: Called after each, so that it begins at once.
    """

    def __init__(
        self,
        database: Database,
        transact: Callable[..., Awaitable[Any]],
        kinds: Sequence[Orchestrated],
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._transact = transact
        self._kinds = {kind.name: kind for kind in kinds}
        self._wake = wake

    async def list(
        self, name: str = "", *, open_only: bool = False, stuck_only: bool = False, after: int = 0, limit: int = 50
    ) -> list[SagaView]:
        """Sagas, oldest first, without their timelines.

        Args:
            name: Of this kind only; empty = of all.
            open_only: Only those that have not ended.
            stuck_only: Only those that are stuck.
            after: Only those with a greater id.
            limit: At most so many.
        """
        args = (name, after, int(open_only), int(stuck_only), min(limit, LIMIT_MAX))
        rows = await self._database.read(lambda connection: connection.fetch(LIST, *args))
        return [view_of(row, ()) for row in rows]

    async def show(self, saga_id: int) -> dict[str, Any]:
        """One saga with its timeline and its state, as JSON values. Raises SagaUnknown."""

        async def look(connection: Connection) -> tuple[Sequence[Any], Sequence[Sequence[Any]]]:
            rows = await connection.fetch(OF_ID, saga_id)
            if not rows:
                raise SagaUnknown(saga_id=saga_id)
            return rows[0], await connection.fetch(store.RECORDS, saga_id)

        row, records = await self._database.read(look)
        return {**view_of(row, records).model_dump(mode="json"), "data": bytes(row[5]).decode()}

    async def retry(self, saga_id: int, why: str = "") -> None:
        """Try again what it was at. Raises SagaUnknown, SagaEnded, SagaRuns."""

        def change(_: Orchestrated | None, progress: Progress, now_us: int) -> Progress | None:
            return progress.after(EDITED, "", now_us, note=f"retry: {why}") if why else None

        await self._change(saga_id, change)

    async def skip(self, saga_id: int, why: str) -> None:
        """Take what it was at for done, or for undone. Raises SagaUnknown, SagaEnded, SagaRuns."""

        def change(kind: Orchestrated | None, progress: Progress, now_us: int) -> Progress | None:
            if kind is None:
                return None
            act = decided(kind.saga.flow, replace(progress, wish=0, deadline_us=now_us + 1), now_us)
            if act.part is None:
                return None
            name = act.part.name
            if act.what == "undo":
                return progress.after(SKIPPED, name, now_us, note=why)
            return progress.after(SKIPPED, name, now_us, note=why, step=kind.saga.flow.following(name))

        await self._change(saga_id, change)

    async def compensate(self, saga_id: int, why: str) -> None:
        """Let it turn back; one that runs does so at its next transition. Raises SagaUnknown, SagaEnded."""

        def change(_: Orchestrated | None, progress: Progress, now_us: int) -> Progress | None:
            return None if progress.phase == BACK else turned(progress, TURNED, "", f"an operator: {why}", now_us)

        await self._change(saga_id, change, running=True)

    async def resume(self, saga_id: int, data: bytes, why: str) -> None:
        """Replace its state, and try again. Raises SagaUnknown, SagaEnded, SagaRuns, StateRefused."""

        def change(kind: Orchestrated | None, progress: Progress, now_us: int) -> Progress | None:
            if kind is None:
                raise StateRefused(saga=str(saga_id), why="this version of the code does not have its kind")
            try:
                state = kind.saga.flow.adapter.validate_json(data)
            except ValueError as error:
                raise StateRefused(saga=kind.name, why=store.said(error)) from None
            stored = kind.saga.flow.adapter.dump_json(state)
            return progress.after(EDITED, "", now_us, note=why, data=stored, version=kind.version)

        await self._change(saga_id, change)

    async def _change(
        self,
        saga_id: int,
        change: Callable[[Orchestrated | None, Progress, int], Progress | None],
        *,
        running: bool = False,
    ) -> None:
        """Change a saga where it is, and put its work back; one that runs is asked to turn back."""

        async def body(tx: Tx) -> None:
            rows = await tx.fetch(LOCK, saga_id)
            progress = await store.load(tx, saga_id)
            if not rows or progress is None:
                raise SagaUnknown(saga_id=saga_id)
            name, sub_id, runs, dead = rows[0]
            if progress.phase not in OPEN:
                raise SagaEnded(saga_id=saga_id, state="ended")
            if runs and not running:
                raise SagaRuns(saga_id=saga_id, step=progress.step)
            if runs:
                if progress.phase == FORWARD:
                    await tx.fetch(WISH, saga_id)
                return
            after = change(self._kinds.get(name), progress, tx.now_us)
            if after is not None:
                for piece in store.advance_pieces(progress, after, tx.now_us, None, Moved):
                    tx.close_with(piece)
            if dead:
                await tx.fetch(REVIVE, sub_id, saga_id, tx.now_us)
                await tx.fetch(UNBURY, sub_id, saga_id)
            else:
                await tx.fetch(AGAIN, sub_id, saga_id, tx.now_us)

        await self._transact(body, what="sagas")
        self._wake()
