"""Commit: what became of a COMMIT whose reply was lost.

    1. end the old server process, so that nothing is still under way       pg_terminate_backend, waits until it is gone
    2. look for what the transaction itself left                            settle(connection)
    3. ask the server's own record of the transaction                       pg_xact_status(xid), while "in progress" again

Step 1 comes first because "not there" of step 2 means nothing while the old process may still commit. The process is known
by its number and the instant at which it began: numbers come round again.

Step 3 has a trap. An id of a transaction that never reached the write-ahead log is given out again after a crash; its
record then tells of a stranger. So after a crash or restart (the link's `incarnation` differs) "committed" proves nothing,
while "aborted" and "not given out yet" still prove that ours is not there: a committed id is in the log and never comes
again. Only then, and only if step 2 cannot say either, OutcomeUnknown is raised.

tests/conformance/test_database_postgres.py loses the reply both ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.database import DatabaseRefused, DatabaseUnreachable, StatementFailed
from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.backends.postgres.connection import PostgresConnection
    from dujiang.backends.postgres.link import Link
    from dujiang.data.database import Settle
    from dujiang.kernel.clock import Clock

XID = Sql("commit_xid", "SELECT pg_current_xact_id_if_assigned()::text", "Reads the transaction's id, if it wrote anything.")
END_PROCESS = Sql(
    "commit_end_process",
    "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
    " WHERE pid = $1 AND backend_start = $2 AND pid <> pg_backend_pid()",
    "Ends the server process whose reply was lost, and waits until it is gone.",
)
STATUS = Sql("commit_status", "SELECT pg_xact_status($1::text::xid8)", "Reads what became of a transaction.")

FUTURE_XID = "22023"
FIRST_WAIT_S, WAIT_S_MAX = 0.02, 0.5


async def outcome(
    lost: PostgresConnection,
    settle: Settle | None,
    fresh: Callable[[], Awaitable[tuple[Link, PostgresConnection]]],
    clock: Clock,
    limit_s: float,
) -> bool | None:
    """Whether the transaction of `lost` is committed; None when nothing can say within `limit_s` seconds.

    Args:
        lost: The transaction whose COMMIT got no reply.
        settle: Says it by what the transaction left behind.
        fresh: Makes a connection that is in no pool.
        clock: The node's.
        limit_s: Seconds in all.
    """
    until = clock.monotonic() + limit_s
    wait_s = FIRST_WAIT_S
    while clock.monotonic() < until:
        try:
            link, connection = await fresh()
        except DatabaseRefused:
            return None
        except DujiangError:
            pass  # The server is starting, perhaps; that is what the time is for.
        else:
            try:
                verdict = await look(lost, settle, link, connection)
            except DatabaseUnreachable:
                verdict = "again"
            finally:
                connection.end()
                await link.close()
            if not isinstance(verdict, str):
                return verdict
        await clock.sleep(min(wait_s, max(0.0, until - clock.monotonic())))
        wait_s = min(wait_s * 2, WAIT_S_MAX)
    return None


async def look(
    lost: PostgresConnection, settle: Settle | None, link: Link, connection: PostgresConnection
) -> bool | str | None:
    """One look: the verdict, None when nothing can ever say, or "again" while the old process lives."""
    ended = await connection.fetch(END_PROCESS, lost.link.pid, lost.link.began)
    gone = all(row[0] for row in ended)
    left = await settled(settle, connection) if settle is not None else None
    if left or (left is False and gone):
        return left
    if lost.xid is None:
        # Without an id the transaction wrote nothing: there is nothing that could be half done.
        return "again" if left is False else None
    if connection.failed:
        return "again"  # `settle` broke this connection; its word is lost, the record's is not.
    return await recorded(lost, link, connection)


async def settled(settle: Settle, connection: PostgresConnection) -> bool | None:
    """What `settle` says; an error of it is "cannot say"."""
    try:
        return await settle(connection)
    except DatabaseUnreachable:
        raise
    except Exception:  # noqa: BLE001  (whatever it is, the record is still to be asked)
        return None


async def recorded(lost: PostgresConnection, link: Link, connection: PostgresConnection) -> bool | str | None:
    """What the server's record says."""
    try:
        status = (await connection.fetch(STATUS, lost.xid))[0][0]
    except StatementFailed as error:
        return False if error.sqlstate == FUTURE_XID else None
    if status == "in progress":
        return "again"
    if status == "committed":
        return True if link.incarnation == lost.link.incarnation else None
    return False if status == "aborted" else None
