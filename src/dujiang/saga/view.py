"""View: what a saga looks like from outside, while it is in between too.

    table of its work row     dj_ready                        dj_running    dj_dead    none: `phase` in dj_saga
    state                     waiting, running, compensating                stuck      done, compensated, abandoned

A saga is not isolated: what its first steps have written is seen before its last one has run, and may be taken back. So what
is in between has a name, and whoever reads it can tell: `state` and `step` are the same that the next run will see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import from_json

from dujiang.data.sql import Sql
from dujiang.data.types import Id, Instant, Json, Model
from dujiang.kernel.clock import instant
from dujiang.kernel.context import current
from dujiang.kernel.errors import Declared
from dujiang.saga import store
from dujiang.saga.progress import BACK, DONE, FORWARD, HEARD, SKIPPED, UNDONE, WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.messaging.tx import Read, Tx
    from dujiang.saga.definition import Saga

State = Literal["running", "waiting", "compensating", "stuck", "done", "compensated", "abandoned"]
ENDED: tuple[State, ...] = ("done", "compensated", "abandoned")

COLUMNS = """s.saga_id, s.okey, s.version, s.phase, s.step, s.data, s.rev, s.wish, s.deadline_us, s.until_us, s.why, n.name,
       s.waits, s.created_us, s.updated_us, s.finished_us, r.run_at, r.attempt, u.attempt, d.attempts, d.error"""
JOINED = """FROM dj_saga s JOIN dj_subscription n ON n.sub_id = s.sub_id
       LEFT JOIN dj_ready r ON r.sub_id = s.sub_id AND r.seq = s.saga_id
       LEFT JOIN dj_running u ON u.sub_id = s.sub_id AND u.seq = s.saga_id
       LEFT JOIN dj_dead d ON d.sub_id = s.sub_id AND d.seq = s.saga_id"""
OF_KEY = Sql(
    "saga_view_of_key",
    f"SELECT {COLUMNS} {JOINED} WHERE n.name = $1 AND s.tenant = $2 AND s.okey = $3",
    "Reads the saga of a key, and where its work lies.",
)
OF_ID = Sql(
    "saga_view_of_id", f"SELECT {COLUMNS} {JOINED} WHERE s.saga_id = $1", "Reads a saga, and where its work lies."
)


class SagaEntry(Model):
    """One line of what has happened to a saga.

    Attributes:
        step: The step or wait; empty when it is about the whole.
        what: `started`, `done`, `failed`, `unknown`, `undone`, `heard`, `timed out`, `turned back`, `skipped`, `edited`.
        result: What a step gave.
        note: Why.
        at: When.
    """

    step: str
    what: str
    result: Json = None
    note: str = ""
    at: Instant


class SagaView(Model):
    """How a saga stands.

    Attributes:
        saga_id: Its id.
        kind: The stored name, `module.Class`.
        key: Its key.
        state: `running` takes a step, or will in a moment; `waiting` for an event; `compensating` undoes; `stuck` needs an
            operator; `done`, `compensated` and `abandoned` are ends.
        step: What is next on the way forward; empty behind the last.
        done: The steps and waits that are behind it and not undone, in order.
        why: Why it turned back, or is stuck.
        attempt: Tries of what is next.
        next_at: When it is tried again, or has waited long enough.
        deadline: When it must have passed its pivot.
        version: Of its state.
        created_at: When it began.
        updated_at: When it was last taken on.
        finished_at: When it ended.
        timeline: What has happened, in order.
    """

    saga_id: Id
    kind: str
    key: str
    state: State
    step: str
    done: tuple[str, ...] = ()
    why: str = ""
    attempt: int = 0
    next_at: Instant | None = None
    deadline: Instant
    version: int
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None = None
    timeline: tuple[SagaEntry, ...] = ()


async def saga_of(db: Read | Tx, saga: type[Saga[Any]], key: object) -> SagaView | None:
    """How the saga of a key stands; None when there is none, or none any more.

        @shop.read("GET /api/v1/orders/{order_id}/checkout")
        async def checkout(db: Read, order_id: Id) -> SagaView | None:
            return await saga_of(db, Checkout, order_id)

    Args:
        db: The transaction or read of the caller.
        saga: The class.
        key: The saga's key.

    Raises:
        Declared: When no module has declared the class.
    """
    if saga.declared is None:
        raise Declared(
            where=saga.__qualname__, what="is no saga of any module", how="decorate it: `@shop.saga(on=...)`"
        )
    rows = await db.fetch(OF_KEY, saga.declared.name, current().tenant, str(key))
    if not rows:
        return None
    return view_of(rows[0], await db.fetch(store.RECORDS, rows[0][0]))


def view_of(row: Sequence[Any], records: Sequence[Sequence[Any]]) -> SagaView:
    """The view of a row of COLUMNS and rows of RECORDS."""
    progress = store.progress_of(row[:11], records)
    name, waits, created_us, updated_us, finished_us, run_at, waited, runs, died, error = row[11:21]
    state: State
    if finished_us is not None:
        state = ENDED[max(0, progress.phase - 2)]
    elif died is not None:
        state = "stuck"
    elif progress.phase == BACK:
        state = "compensating"
    else:
        state = "waiting" if waits is not None and runs is None else "running"
    last = {one.name: one.kind for one in progress.records if one.kind in (DONE, HEARD, SKIPPED, UNDONE)}
    return SagaView(
        saga_id=progress.saga_id,
        kind=name,
        key=progress.key,
        state=state,
        step=progress.step if progress.phase in (FORWARD, BACK) else "",
        done=tuple(each for each, kind in last.items() if each and kind in (DONE, HEARD)),
        why=progress.why or (str(error) if state == "stuck" else ""),
        attempt=next((count for count in (runs, waited, died) if count is not None), 0),
        next_at=instant(run_at) if run_at is not None and state != "stuck" else None,
        deadline=instant(progress.deadline_us),
        version=progress.version,
        created_at=instant(created_us),
        updated_at=instant(updated_us),
        finished_at=None if finished_us is None else instant(finished_us),
        timeline=tuple(
            SagaEntry(
                step=one.name,
                what=WORDS.get(one.kind, str(one.kind)),
                result=None if one.result is None else from_json(one.result),
                note=one.note,
                at=instant(one.at_us),
            )
            for one in progress.records
        ),
    )
