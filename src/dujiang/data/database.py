"""The port `database`: where everything durable lives.

    write(body)                       read(body)
      begin                             a read-only session on a reader
      await body(connection)            await body(connection)
      commit, durable
      return what body returned

A transaction is a function, not a `with` block, because it may have to run again from its start: a deadlock, a
serialization failure or a lost group is answered by running `body` once more on a fresh transaction. So a body has no
effect but its transaction. `write` returns only when the commit is durable; what a body raises is raised after its
rollback is durable in the same sense: no decision taken on uncommitted data of others leaves before that data is on disk.

The rejected form is `async with database.transaction()`: it cannot be run again, and on the embedded store the group of
transactions that share one fsync could then not be repaired when that fsync fails. For code that must hold a transaction
open across a scope that is not ours (a route of another framework), `held()` exists; it is never re-run.

testing/conformance/database.py holds every adapter to each numbered promise.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.engine.interfaces import Dialect

    from dujiang.data.sql import Sql

T = TypeVar("T")

Isolation = Literal["read_committed", "serializable"]

# Set where calls keep this process alive. An adapter with a pool serves them from a connection that nothing else takes:
# a process whose connections all wait for locks must not lose its lease, which would put an end to everything it does.
VITAL: ContextVar[bool] = ContextVar("vital", default=False)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an adapter can do; callers choose a statement's variant by these, never by a product's name.

    Attributes:
        arrays: A list is one parameter, unfolded by `unnest`; otherwise lists travel as JSON text (`json_each`).
        writable_cte: Several writes fit in one statement as `WITH a AS (INSERT ...), b AS (DELETE ...) SELECT`.
        skip_locked: `FOR UPDATE SKIP LOCKED` exists.
        key_locks: A number can be locked for a transaction if nobody else has it, without waiting.
        xid_horizon: The oldest running transaction can be read, so a gap in a sequence can be closed exactly.
        many_writers: Several processes may write at once; otherwise one process owns the store.
        listen: Another process can be woken through the store.
        partitions: A table can be made of parts that are dropped whole.
    """

    arrays: bool
    writable_cte: bool
    skip_locked: bool
    key_locks: bool
    xid_horizon: bool
    many_writers: bool
    listen: bool
    partitions: bool


class Connection(Protocol):
    """One open transaction, or one read session, on one driver connection.

    1. One statement at a time; a second one while one runs raises StatementsOverlap.
    2. After a failed statement everything but `rollback_to` raises TransactionFailed, on every database.
    3. Driver errors never leave; they come as the errors of this module.
    4. A cancelled call leaves no half-read reply behind: the connection is closed, not returned to the pool.
    """

    async def fetch(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run a platform statement and return its rows (tuples or tuple-likes)."""
        ...

    async def execute(self, sql: Sql, *args: Any) -> int:
        """Run a platform statement and return the number of rows that it matched."""
        ...

    async def run(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int]:
        """Run compiled text in the driver's own parameter style: (rows, matched rows). For data/statements.py."""
        ...

    async def run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run compiled text once for each row of parameters; the number of matched rows in all."""
        ...

    async def savepoint(self, name: str) -> None:
        """Set a savepoint. `name` is made by us: letters, digits, underscore."""
        ...

    async def release(self, name: str) -> None:
        """Forget a savepoint and keep what was done since."""
        ...

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since the savepoint; a failed transaction becomes usable again."""
        ...

    def orm_engine(self) -> Any:
        """A SQLAlchemy AsyncEngine whose every connection is this same transaction; for an ORM session."""
        ...

    def note_xid(self, xid: str) -> None:
        """Remember the transaction's id, read by its last statement: a lost reply to COMMIT is settled by it."""
        ...

    def orm_connection(self) -> AbstractAsyncContextManager[Any]:
        """A SQLAlchemy AsyncConnection over this same transaction; its own commit and rollback touch nothing."""
        ...


class Settle(Protocol):
    """Says what became of a transaction whose COMMIT got no reply: True committed, False not, None cannot say."""

    async def __call__(self, connection: Connection) -> bool | None:
        """Look for what the transaction itself left behind (a key's row, an inbox row)."""
        ...


class Database(Protocol):
    """What every adapter promises.

    1. `write` commits once or not at all; when it returns, the commit is durable.
    2. What `body` raises rolls everything back and is raised unchanged.
    3. A deadlock, serialization failure or lost group runs `body` again, at most 5 times in all, then raises Conflict.
    4. A lost reply to COMMIT is settled, never guessed: by `settle`, then by the database's own record of the
       transaction; only when neither can say, OutcomeUnknown is raised.
    5. A `read` cannot write: WriteInRead.
    6. After the database was away, calls work again without a restart; meanwhile they raise DatabaseUnreachable.
    7. Matched rows, not changed rows, are counted.
    8. Callers wait for a connection in the order of their arrival, at most until their deadline; the wait is bounded in
       number too (Overloaded).
    9. `stop` lets open transactions end, at most 10 s, and leaves no connection, thread or task.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this adapter can do."""
        ...

    @property
    def dialect(self) -> Dialect:
        """Compiles SQLAlchemy statements for this database."""
        ...

    @property
    def url(self) -> str:
        """Names the database for people; no password in it."""
        ...

    @property
    def epoch(self) -> int:
        """Changes when another server, or the same after a crash, may stand behind the URL.

        What was committed before may be gone then, with an asynchronous standby: whoever remembers it looks again.
        """
        ...

    async def servers(self) -> list[dict[str, str]]:
        """What each server behind the URL is at this moment, `host` and `state`; empty where there is no server."""
        ...

    async def start(self) -> None:
        """Open; raises DatabaseUnreachable, DatabaseRefused, StoreInUse with the cure."""
        ...

    async def stop(self) -> None:
        """Close."""
        ...

    async def write(
        self,
        body: Callable[[Connection], Awaitable[T]],
        *,
        isolation: Isolation = "read_committed",
        settle: Settle | None = None,
    ) -> T:
        """Run `body` in a transaction on the primary, commit, and return its answer."""
        ...

    async def statement(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run one platform statement that is a whole transaction; one round trip. Its rows, once it is durable."""
        ...

    def held(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction open for the block: commits at its end, rolls back on an error, never runs again."""
        ...

    async def read(self, body: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `body` in a read-only session; each statement sees what is committed when it starts."""
        ...

    async def notify(self, payload: str) -> None:
        """Wake other processes that `listen`; outside any transaction, may get lost. No-op without `listen`."""
        ...

    def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with each payload that another process sent. Reconnects by itself. Before `start`."""
        ...

    async def durability(self) -> dict[str, str]:
        """What an acknowledgement means right now, read back from the database.

        Settings by name; `safe`: `yes` if an acknowledged write outlives a crash of the machine, else `no`; and
        `means`, a sentence.
        """
        ...

    async def health(self) -> None:
        """Return if a trivial statement works within 1 s, else raise."""
        ...


@dataclass(eq=False, kw_only=True)
class DatabaseUnreachable(DujiangError):
    """The database does not answer."""

    code = "database_unreachable"
    move = "wait"
    says = "no answer from {url}: {why}"
    cure = "check that the database runs and that the setting `database` names it"

    url: str
    why: str


@dataclass(eq=False, kw_only=True)
class DiskFull(DatabaseUnreachable):
    """The disk of the store is full; nothing was written, so the request can be repeated later."""

    code = "disk_full"
    status = 507
    says = "the disk of {url} is full: {why}"
    cure = "make room on that disk; writes then work again by themselves, reads work meanwhile"
    retry_after_s: ClassVar[float] = 10.0


@dataclass(eq=False, kw_only=True)
class DiskFailed(DatabaseUnreachable):
    """The disk of the store fails; nothing was acknowledged, so the request can be repeated later."""

    code = "disk_failed"
    says = "the disk of {url} failed: {why}"
    cure = "read the kernel's log (dmesg); if the disk is dying, stop, copy the folder away, restore the last backup"
    retry_after_s: ClassVar[float] = 10.0


@dataclass(eq=False, kw_only=True)
class DatabaseRefused(DujiangError):
    """The database answers and refuses us (password, missing database, rights)."""

    code = "database_refused"
    move = "fix"
    says = "{url} refuses: {why}"
    cure = "check user, password and database name in the setting `database`"

    url: str
    why: str


@dataclass(eq=False, kw_only=True)
class StoreInUse(DujiangError):
    """Another process owns the embedded store."""

    code = "store_in_use"
    move = "fix"
    says = "{path} is open in process {pid}"
    cure = "stop that process, or give this one another folder (DATA=...)"

    path: str
    pid: int


@dataclass(eq=False, kw_only=True)
class Conflict(DujiangError):
    """Transactions kept getting in each other's way; trying later helps."""

    code = "conflict"
    move = "wait"
    says = "the transaction ran {runs} times and lost each time: {why}"

    runs: int
    why: str


@dataclass(eq=False, kw_only=True)
class OutcomeUnknown(DujiangError):
    """The reply to COMMIT was lost and nothing can say whether it happened."""

    code = "outcome_unknown"
    move = "wait"
    says = "no reply to COMMIT from {url}"

    url: str


@dataclass(eq=False, kw_only=True)
class StatementFailed(DujiangError):
    """The database refuses a statement: it is wrong, or it asks for something that is not there."""

    code = "statement_failed"
    move = "report"
    says = "{why} (SQLSTATE {sqlstate}) in: {sql}"

    why: str
    sqlstate: str
    sql: str


@dataclass(eq=False, kw_only=True)
class IntegrityFailed(DujiangError):
    """A constraint of the database refuses the change."""

    code = "integrity"
    move = "report"
    status = 409
    says = "{kind} constraint {constraint}: {why}"

    kind: Literal["unique", "foreign_key", "check", "not_null", "other"]
    constraint: str
    why: str


@dataclass(eq=False, kw_only=True)
class PartitionMissing(IntegrityFailed):
    """A table has no part for a row; the platform makes the missing part and runs the transaction again."""

    code = "partition_missing"
    status = 500


@dataclass(eq=False, kw_only=True)
class WriteInRead(DujiangError):
    """A read handler tried to write."""

    code = "write_in_read"
    move = "report"
    says = "a read cannot run: {sql}"
    cure = "declare the handler with @module.write and take `tx: Tx`"

    sql: str


@dataclass(eq=False, kw_only=True)
class StatementsOverlap(DujiangError):
    """Two statements ran at once on one transaction."""

    code = "statements_overlap"
    move = "report"
    says = "a statement was started while another one runs on the same transaction: {sql}"
    cure = "await each statement before the next; a transaction is one line of work"

    sql: str


@dataclass(eq=False, kw_only=True)
class TransactionFailed(DujiangError):
    """A statement of this transaction failed earlier; only a rollback to a savepoint is possible."""

    code = "transaction_failed"
    move = "report"
    says = "the transaction takes no statement after: {why}"
    cure = "let the error out, or put the statement that may fail inside `async with tx.savepoint():`"

    why: str


# A transaction that goes without a statement for so long is at fault: a drill calls it `held-transaction`, the embedded
# store takes the writer from it, and on a server, whose own limit is longer, it is logged.
HELD_S_MAX = 1.0


@dataclass(eq=False, kw_only=True)
class TransactionHeld(DujiangError):
    """A transaction held the one writer without a statement for too long."""

    code = "transaction_held"
    move = "report"
    says = "{where} held the writer for {held_ms} ms without a statement"
    cure = "do slow work before the transaction, or in a reaction or job"

    where: str
    held_ms: int
