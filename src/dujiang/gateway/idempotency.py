"""Idempotency keys: a retry with the same key gets the same bytes, and the work is done once.

    in this process     a second call with the key waits for the first, without a connection
    between processes   the key is locked for the transaction (an advisory lock that is tried, never waited for)
    in the transaction  lookup -> handler -> the answer's row is inserted with everything else -> one commit

The row appears only with its answer: there is no state "in flight" in the table, nothing is stranded by a crash, and a
write costs one insert instead of an insert and an update. Uniqueness is the primary key's: should two processes both find
nothing, one of the two inserts fails, its transaction rolls back, and the other's answer is replayed.

Rejected: a row that is inserted first and updated last (twice the writes, a dead row for each request); waiting on the
unique index (each waiting retry would hold a connection); a store beside the database (it would know answers of
transactions that were rolled back).

A refusal rolls the transaction back and is stored by a second, small one; if another process stored an answer under the
key meanwhile, that one is replayed. Errors that are nobody's decision (5xx) are not stored: a retry runs again.

A key that comes with another request is refused, and "another" is what the fingerprint says. Each row carries the version
of the way in which its fingerprint was made. A row of a version that is not ours was written by an older copy, or by a newer
one during a rolling deploy; its fingerprint cannot be compared, and its answer is replayed by the key alone. So an upgrade
refuses no honest retry; the cost is that for one retention (`idempotency_ttl`) a key of the older version that is misused for
another request gets the first one's answer instead of 422. Rejected: keeping every older way of making it, because it is a
digest of what older code had read, and code that reads differently cannot make it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import SchemaSerializer, core_schema

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.gateway.problems import JSON_HEADERS, Answer
from dujiang.kernel.context import current
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.data.database import Connection, Database, Settle
    from dujiang.kernel.node import Node
    from dujiang.messaging.tx import Tx

LOOK_AND_LOCK = Sql(
    "idempotency_look_and_lock",
    """SELECT l.ok, i.fingerprint, i.status, i.headers, i.body, i.expires_us, i.fingerprint_version
       FROM (SELECT pg_try_advisory_xact_lock($3) AS ok) l
       LEFT JOIN dj_idempotency i ON i.scope = $1 AND i.okey = $2""",
    "Locks a key for this transaction if nobody else does, and reads its stored answer.",
)
LOOK_AND_LOCK_MANY = Sql(
    "idempotency_look_and_lock_many",
    """SELECT pg_try_advisory_xact_lock(k.h), i.fingerprint, i.status, i.headers, i.body, i.expires_us, i.fingerprint_version
       FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS k(s, o, h, n)
       LEFT JOIN dj_idempotency i ON i.scope = k.s AND i.okey = k.o ORDER BY k.n""",
    "The same for many keys.",
)
LOOK = Sql(
    "idempotency_look",
    """SELECT 1, fingerprint, status, headers, body, expires_us, fingerprint_version FROM dj_idempotency
       WHERE scope = $1 AND okey = $2""",
    "Reads the stored answer of a key.",
)
STORE = Sql(
    "idempotency_store",
    """INSERT INTO dj_idempotency (scope, okey, fingerprint, status, headers, body, fingerprint_version, expires_us)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING 1""",
    "Stores the answer under its key.",
)
STORE_MANY = Sql(
    "idempotency_store_many",
    """INSERT INTO dj_idempotency (scope, okey, fingerprint, status, headers, body, fingerprint_version, expires_us)
       SELECT s, o, f, st, h, b, v, $8
       FROM unnest($1::text[], $2::text[], $3::bytea[], $4::int[], $5::text[], $6::bytea[], $7::int[])
         AS k(s, o, f, st, h, b, v) ON CONFLICT DO NOTHING RETURNING 1""",
    "Stores many answers.",
)
DROP_EXPIRED_ONE = Sql(
    "idempotency_drop_expired_one",
    "DELETE FROM dj_idempotency WHERE scope = $1 AND okey = $2 AND expires_us < $3",
    "Frees one key whose time is over.",
)
DELETE_SLICE = Sql(
    "idempotency_delete_slice",
    """DELETE FROM dj_idempotency WHERE (scope, okey) IN
       (SELECT scope, okey FROM dj_idempotency WHERE expires_us < $1 ORDER BY expires_us LIMIT 500) RETURNING 1""",
    "Frees a slice of keys whose time is over.",
)

WAIT_S = 5.0
REPLAYED = (b"idempotent-replayed", b"true")
PLAIN_HEADERS = list(JSON_HEADERS)
PLAIN_HEADERS_JSON = '[["content-type","application/json"]]'
VISIBLE = re.compile(r"[!-~]*")

# The way in which `fingerprint_of` works. Whoever changes what it returns for any request counts this up.
FINGERPRINT_VERSION = 1
NO_BODY: Any = object()
AS_SENT = SchemaSerializer(core_schema.any_schema())


@dataclass(eq=False, kw_only=True)
class KeyRequired(DujiangError):
    """This route takes no request without an Idempotency-Key."""

    code = "idempotency_key_required"
    move = "fix"
    says = "the header Idempotency-Key is missing"
    cure = "send a fresh unique key with each new request, and the same key with each retry of it"


@dataclass(eq=False, kw_only=True)
class KeyMalformed(DujiangError):
    """The Idempotency-Key is not 1 to 255 visible ASCII characters."""

    code = "idempotency_key_malformed"
    move = "fix"
    says = "the Idempotency-Key {why}"
    cure = "use 1 to 255 visible ASCII characters, for example a UUID"

    why: str


@dataclass(eq=False, kw_only=True)
class KeyReused(DujiangError):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_key_reused"
    move = "fix"
    status = 422
    says = "the key was used for another request to {operation}"
    cure = "use a fresh key for a new request; a retry must repeat the request unchanged"

    operation: str


@dataclass(eq=False, kw_only=True)
class InFlight(DujiangError):
    """The first request with this key has not been answered yet."""

    code = "in_flight"
    move = "wait"
    status = 409
    says = "a request with this key is being worked on"
    retry_after_s: float = 1.0


class Replay(Exception):
    """Leaves a transaction with an answer that was stored before."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Lost(Exception):
    """Another process has the key, or stored its answer first: look again."""


@dataclass(frozen=True, slots=True)
class Key:
    """One request under its key.

    Attributes:
        scope: Tenant, principal and operation.
        text: The client's key.
        fingerprint: 32 bytes over the request; another one under the same key is refused.
        operation: Named in errors.
        version: The way in which the fingerprint was made.
    """

    scope: str
    text: str
    fingerprint: bytes
    operation: str
    version: int = FINGERPRINT_VERSION

    @property
    def lock(self) -> int:
        """The 64-bit number under which the key is locked. A collision only makes a retry wait."""
        digest = hashlib.blake2b(f"{self.scope}\x1f{self.text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


def fingerprint_of(parts: str, body: Any = NO_BODY) -> bytes:
    """32 bytes that are equal for requests that ask for the same thing.

    Of a body counts what the client sent, not what its type fills in: a release that adds a field with a default, or a
    default that differs each time, changes no fingerprint.

    Args:
        parts: What of the request beside its body counts, as text.
        body: The validated body.
    """
    digest = hashlib.sha256(parts.encode())
    if body is not NO_BODY:
        digest.update(b"\x00" + AS_SENT.to_json(body, exclude_unset=True))
    return digest.digest()


def key_text(header: bytes | None, *, required: bool) -> str | None:
    """The client's key from its header. Raises KeyRequired or KeyMalformed."""
    if header is None:
        if required:
            raise KeyRequired
        return None
    text = header.decode("latin-1").strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not text:
        raise KeyMalformed(why="is empty")
    if len(text) > 255:
        raise KeyMalformed(why=f"has {len(text)} characters")
    if VISIBLE.fullmatch(text) is None:
        raise KeyMalformed(why="has a character that is not visible ASCII")
    return text


def stored(row: Sequence[Any], key: Key) -> Answer:
    """The answer of a row of LOOK. Raises KeyReused when the row belongs, by our own way of telling, to another request."""
    if row[6] == key.version and bytes(row[1]) != key.fingerprint:
        raise KeyReused(operation=key.operation)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(row[3])]
    return Answer(row[2], [*headers, REPLAYED], bytes(row[4]))


def headers_json(answer: Answer) -> str:
    """An answer's headers as they are stored."""
    if answer.headers == PLAIN_HEADERS:
        return PLAIN_HEADERS_JSON
    # Latin-1 has a character for each byte, so whatever a handler set comes back as it was.
    pairs = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
    return json.dumps(pairs, separators=(",", ":"))


class Idempotency:
    """Keys of one running copy.

    Args:
        node: The running copy.
        database: Where answers are stored.
        keep_us: How long a key is remembered, microseconds.
    """

    def __init__(self, node: Node, database: Database, *, keep_us: int) -> None:
        self._node = node
        self._database = database
        self._keep_us = keep_us
        self._flights: dict[tuple[str, str], tuple[bytes, asyncio.Future[Answer | None]]] = {}

    async def once(self, key: Key, lead: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of this key: `lead` makes it, or it is replayed.

        Raises:
            KeyReused: If the key belongs to another request.
            InFlight: If another process still works on it after 5 s or at the deadline.
        """
        remaining_s = current().remaining_s()
        limit_s = WAIT_S if remaining_s is None else min(WAIT_S, remaining_s)
        until = self._node.clock.monotonic() + limit_s
        place = (key.scope, key.text)
        while True:
            flight = self._flights.get(place)
            try:
                if flight is None:
                    return await self._lead(place, key, lead)
                answer = await self._follow(key, flight, until)
                if answer is not None:
                    return answer
            except Replay as replay:
                return replay.answer
            except Lost:
                await self._node.clock.sleep(self._node.entropy.uniform(0.02, 0.1))
            if self._node.clock.monotonic() >= until:
                raise InFlight

    async def _lead(self, place: tuple[str, str], key: Key, lead: Callable[[], Awaitable[Answer]]) -> Answer:
        landed: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._flights[place] = (key.fingerprint, landed)
        try:
            answer = await lead()
        except Replay as replay:
            landed.set_result(replay.answer)
            raise
        except BaseException:
            landed.set_result(None)  # Followers try for themselves.
            raise
        else:
            landed.set_result(answer)
            return answer
        finally:
            del self._flights[place]

    async def _follow(
        self, key: Key, flight: tuple[bytes, asyncio.Future[Answer | None]], until: float
    ) -> Answer | None:
        fingerprint, landed = flight
        if fingerprint != key.fingerprint:
            raise KeyReused(operation=key.operation)
        try:
            async with asyncio.timeout(max(0.0, until - self._node.clock.monotonic())):
                answer = await asyncio.shield(landed)
        except TimeoutError:
            raise InFlight from None
        if answer is None or REPLAYED in answer.headers:
            return answer
        return Answer(answer.status, [*answer.headers, REPLAYED], answer.body)

    async def claim(self, tx: Tx, key: Key) -> None:
        """Lock the key for `tx`. Raises Replay with a stored answer, Lost when another process works on it."""
        if self._database.capabilities.key_locks:
            row = (await tx.fetch(LOOK_AND_LOCK, key.scope, key.text, key.lock))[0]
        else:
            rows = await tx.fetch(LOOK, key.scope, key.text)
            row = rows[0] if rows else (True, None)
        await self._decide(tx, key, row)

    async def claim_many(self, tx: Tx, keys: Sequence[Key]) -> list[Exception | None]:
        """Lock many keys; for each None, or what `claim` would raise."""
        if self._database.capabilities.arrays:
            columns = ([k.scope for k in keys], [k.text for k in keys], [k.lock for k in keys])
            rows = await tx.fetch(LOOK_AND_LOCK_MANY, *columns)
        elif self._database.capabilities.key_locks:
            rows = [(await tx.fetch(LOOK_AND_LOCK, key.scope, key.text, key.lock))[0] for key in keys]
        else:
            found = [await tx.fetch(LOOK, key.scope, key.text) for key in keys]
            rows = [one[0] if one else (True, None) for one in found]
        outcomes: list[Exception | None] = []
        for key, row in zip(keys, rows, strict=True):
            outcome: Exception | None = None
            if row[1] is not None or not row[0]:  # Nearly every key is new.
                try:
                    await self._decide(tx, key, row)
                except (Replay, Lost, KeyReused) as decided:
                    outcome = decided
            outcomes.append(outcome)
        return outcomes

    async def _decide(self, tx: Tx, key: Key, row: Sequence[Any]) -> None:
        if row[1] is not None:
            if row[5] >= tx.now_us:
                raise Replay(stored(row, key))
            await tx.fetch(DROP_EXPIRED_ONE, key.scope, key.text, tx.now_us)
        if not row[0]:
            raise Lost

    def store_pieces(self, tx: Tx, keys: Sequence[Key], answers: Sequence[Answer]) -> list[Piece]:
        """The closing pieces that store answers under their keys."""
        rows = [self._row(key, answer, tx.now_us) for key, answer in zip(keys, answers, strict=True)]
        if len(rows) > 1 and self._database.capabilities.arrays:
            columns = [list(column) for column in zip(*rows, strict=True)]
            args = (*columns[:7], tx.now_us + self._keep_us)
            return [Piece("answer", STORE_MANY, args, expect=len(rows), otherwise=Lost)]
        return [Piece("answer", STORE, row, expect=1, otherwise=Lost) for row in rows]

    def _row(self, key: Key, answer: Answer, now_us: int) -> tuple[Any, ...]:
        headers, until_us = headers_json(answer), now_us + self._keep_us
        return (key.scope, key.text, key.fingerprint, answer.status, headers, answer.body, key.version, until_us)

    async def store_refusal(self, key: Key, answer: Answer) -> Answer:
        """Store a refusal after its rollback; the answer that stands under the key, ours or an earlier one."""

        async def body(connection: Connection) -> Answer:
            now_us = self._node.clock.now_us()
            await connection.execute(DROP_EXPIRED_ONE, key.scope, key.text, now_us)
            if await connection.fetch(STORE, *self._row(key, answer, now_us)):
                return answer
            rows = await connection.fetch(LOOK, key.scope, key.text)
            return stored(rows[0], key) if rows else answer

        return await self._database.write(body)

    def settle(self, key: Key, made: Sequence[Answer]) -> Settle:
        """Says after a lost reply whether the commit happened: our own answer's row is in the same transaction.

        Args:
            key: The key.
            made: Holds, last, the answer that the transaction stored; another one under the key is another process's.
        """

        async def settle(connection: Connection) -> bool:
            rows = await connection.fetch(LOOK, key.scope, key.text)
            return bool(rows and made and bytes(rows[0][4]) == made[-1].body)

        return settle

    async def clean(self) -> int:
        """Free a slice of expired keys; how many."""
        return len(await self._database.statement(DELETE_SLICE, self._node.clock.now_us()))
