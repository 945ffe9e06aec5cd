"""Dead letters: work that failed for good, kept whole until somebody replays or discards it.

A dead event of an ordered subscription holds its key; a replay puts it back under its old number, so that the key goes
on in order, and a discard lets the key go on without it. A replay is idempotent: the inbox still knows whether the
message was handled (force forgets that first). The raw bytes are kept as they came, decodable or not.

Each letter holds for itself. Runs that were under way at once can die under one halt; then each of their letters must be
replayed or discarded before anything begins again, the replayed ones included. Rejected: one hold that the first decision
releases; the subscription would go on although somebody still has to decide about another letter of it.

A letter of a subscription that is gone on purpose can be read and discarded; a replay is refused, because nobody would
ever take the work.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.ids import uuid7
from dujiang.messaging.message import headers_of, received_text
from dujiang.messaging.work import HALT, OUTCOME_ONE, STATE_DEAD, Claim, end_claim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.data.database import Connection, Database

    Discarded = Callable[[Connection, "DeadLetter", int, int], Awaitable[None]]

INSERT = Sql(
    "deadletter_insert",
    """INSERT INTO dj_dead (dead_id, sub_id, seq, message_id, topic, okey, tenant, reason, error, fingerprint, created_us,
                            died_us, attempts, crashes, headers, payload)
       VALUES ($1, $2, $3, $4, $5, $6, '', $7, $8, $9, $10, $11, $12, $13, $14, $15)""",
    "Keeps a dead letter.",
)
HOLD = Sql(
    "deadletter_hold",
    "INSERT INTO dj_hold (sub_id, okey, since_us, dead_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    "Holds a key (or, under the halt key, the whole subscription) until this letter is gone.",
)
LIST = Sql(
    "deadletter_list",
    """SELECT d.dead_id, s.name, d.message_id, d.topic, d.okey, d.reason, d.error, d.fingerprint, d.created_us, d.died_us,
              d.attempts, d.crashes, d.headers, d.payload, d.seq, d.sub_id
       FROM dj_dead d JOIN dj_subscription s ON s.sub_id = d.sub_id
       WHERE ($1 = '' OR s.name = $1) AND d.dead_id > $2 ORDER BY d.dead_id LIMIT $3""",
    "Reads dead letters, oldest first.",
)
ONE = Sql(
    "deadletter_one",
    """SELECT d.dead_id, s.name, d.message_id, d.topic, d.okey, d.reason, d.error, d.fingerprint, d.created_us, d.died_us,
              d.attempts, d.crashes, d.headers, d.payload, d.seq, d.sub_id
       FROM dj_dead d JOIN dj_subscription s ON s.sub_id = d.sub_id WHERE d.dead_id = $1""",
    "Reads one dead letter.",
)
LOCK = Sql(
    "deadletter_lock",
    "UPDATE dj_dead SET crashes = crashes WHERE dead_id = $1 RETURNING 1",
    "Keeps a second replay of the letter out.",
)
DELETE = Sql("deadletter_delete", "DELETE FROM dj_dead WHERE dead_id = $1 RETURNING 1", "Takes a dead letter out.")
RELEASE = Sql(
    "deadletter_release",
    "DELETE FROM dj_hold WHERE dead_id = $1",
    "Ends this letter's hold; the key goes on once no other letter holds it.",
)
LOCK_SUBSCRIPTION = Sql(
    "deadletter_lock_subscription",
    """UPDATE dj_subscription SET active = active WHERE sub_id = (SELECT sub_id FROM dj_dead WHERE dead_id = $1)
       RETURNING active""",
    "Reads whether the letter's subscription is in use, and keeps it so until the replay is committed.",
)
READY_AGAIN = Sql(
    "deadletter_ready_again",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload,
                             run_at)
       SELECT d.sub_id, d.seq, CASE WHEN s.ordered = 1 THEN d.okey END, d.tenant, 0, 0, $5, d.topic, $4, $2, $3, $4
       FROM dj_dead d JOIN dj_subscription s ON s.sub_id = d.sub_id WHERE d.dead_id = $1 ON CONFLICT DO NOTHING""",
    "Puts a dead letter back to ready, with its own copy of the message.",
)


@dataclass(eq=False, kw_only=True)
class DeadLetterUnknown(DujiangError):
    """There is no such dead letter; it may have been replayed or discarded already."""

    code = "dead_letter_unknown"
    move = "choose"
    status = 404
    says = "no dead letter has the id {dead_id}"

    dead_id: int


@dataclass(eq=False, kw_only=True)
class SubscriptionRetired(DujiangError):
    """The subscription of a dead letter is gone; replayed, its work would wait for ever."""

    code = "subscription_retired"
    move = "choose"
    says = "dead letter {dead_id} cannot be replayed: its subscription {subscription} was retired"
    cure = "discard the letter, or start a release that declares {subscription} again and replay it then"

    dead_id: int
    subscription: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        dead_id: Its id.
        subscription: Whose work it was.
        message_id: 16 bytes.
        topic: The event's name.
        okey: The order key, or None.
        reason: Why: `undecodable`, `unknown_event`, `attempts`, `age`, `beyond_dedupe_horizon`, or a refusal's code.
        error: The last error, as text.
        fingerprint: Equal for errors of one kind at one place.
        created_us: When the message was written.
        died_us: When it died.
        attempts: Runs.
        crashes: Processes that died running it.
        headers: The envelope's attributes.
        payload: The raw bytes.
    """

    dead_id: int
    subscription: str
    message_id: bytes
    topic: str
    okey: str | None
    reason: str
    error: str
    fingerprint: str
    created_us: int
    died_us: int
    attempts: int
    crashes: int
    headers: dict[str, Any]
    payload: bytes

    def public(self) -> dict[str, Any]:
        """This letter as JSON values."""
        return {
            "id": str(self.dead_id),
            "subscription": self.subscription,
            "message_id": self.message_id.hex(),
            "event": self.topic,
            "key": self.okey,
            "reason": self.reason,
            "error": self.error,
            "fingerprint": self.fingerprint,
            "created_us": self.created_us,
            "died_us": self.died_us,
            "attempts": self.attempts,
            "crashes": self.crashes,
            "headers": self.headers,
            "payload": self.payload.decode("utf-8", "backslashreplace"),
        }


def letter_of(row: Sequence[Any]) -> DeadLetter:
    """A dead letter from a row of LIST."""
    names = list(DeadLetter.__dataclass_fields__)
    values = dict(zip(names, row[: len(names)], strict=True))
    values["headers"], values["payload"] = headers_of(row[12]), bytes(row[13])
    return DeadLetter(**values)


def fingerprint_of(reason: str, error: BaseException | None) -> str:
    """Equal for errors of one class raised at one place."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return hashlib.blake2b(f"{reason} {type(error).__name__} {place}".encode(), digest_size=8).hexdigest()


def text_of(error: BaseException) -> str:
    """An error as every database can keep it, at most 2,000 characters."""
    try:
        said = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  (foreign code made the text)
        said = f"{type(error).__name__}, which cannot be shown"
    return said[:2000].encode("utf-8", "backslashreplace").decode().replace("\x00", "")


async def bury(
    database: Database,
    claim: Claim,
    *,
    name: str,
    dead_id: int,
    reason: str,
    error: BaseException | None,
    holds: str | None,
    now_us: int,
) -> None:
    """Move a claim to the dead letters and hold `holds` (a key, HALT, or None). Raises LeaseLost when it is not ours."""
    message = claim.message
    text = "" if error is None else text_of(error)
    row = (
        dead_id, claim.sub_id, message.seq, message.message_id, message.topic or "", message.okey, reason, text,
        fingerprint_of(reason, error), message.created_us or now_us, now_us, claim.attempt, claim.crashes,
        received_text(message.headers), message.payload or b"",
    )  # fmt: skip

    async def body(connection: Connection) -> None:
        await end_claim(connection, name, claim)
        await connection.execute(INSERT, *row)
        await connection.fetch(OUTCOME_ONE, claim.sub_id, message.seq, claim.attempt, STATE_DEAD, now_us, 0)
        if holds is not None:
            await connection.execute(HOLD, claim.sub_id, holds, now_us, dead_id)

    await database.write(body)


def renewed(message_id: bytes, now_us: int) -> bytes:
    """An id of now for a message whose own id is too old, or none; the same one at the same instant."""
    digest = hashlib.blake2b(message_id, digest_size=8).digest()
    return uuid7(now_us, int.from_bytes(digest, "big"))


class DeadLetters:
    """The operations on dead letters.

    Args:
        database: Where they lie.
        now_us: The present time.
        wake: Called after a replay or discard, so that the work begins at once.
        discarded: Called in the transaction that gives a letter up, with the letter, its work's number and the time.
    """

    def __init__(self, database: Database, now_us: Any, wake: Any, discarded: Discarded | None = None) -> None:
        self._database = database
        self._discarded = discarded
        self._now_us = now_us
        self._wake = wake

    async def list(self, subscription: str = "", *, after: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Up to `limit` dead letters, oldest first, of one subscription or of all."""
        rows = await self._database.read(lambda c: c.fetch(LIST, subscription, after, min(limit, 1000)))
        return [letter_of(row) for row in rows]

    async def show(self, dead_id: int) -> DeadLetter:
        """One dead letter. Raises DeadLetterUnknown."""
        rows = await self._database.read(lambda c: c.fetch(ONE, dead_id))
        if not rows:
            raise DeadLetterUnknown(dead_id=dead_id)
        return letter_of(rows[0])

    async def replay(self, dead_id: int, payload: bytes | None = None, *, force: bool = False) -> None:
        """Put a dead letter back to its work, with another payload if given; its key goes on in order.

        While another letter holds the same key, or halts the subscription, the replayed work waits for that one too.

        Args:
            dead_id: Which.
            payload: Replaces the message's bytes.
            force: Handle it even if the inbox says that it was handled, or knows no more: as a message of now.

        Raises:
            DeadLetterUnknown: If it is not there (any more).
            SubscriptionRetired: If nobody would take the work.
        """

        async def body(connection: Connection) -> None:
            await connection.fetch(LOCK, dead_id)
            rows = await connection.fetch(ONE, dead_id)
            if not rows:
                raise DeadLetterUnknown(dead_id=dead_id)
            letter = letter_of(rows[0])
            if not (await connection.fetch(LOCK_SUBSCRIPTION, dead_id))[0][0]:
                raise SubscriptionRetired(dead_id=dead_id, subscription=letter.subscription)
            raw = letter.payload if payload is None else payload
            now_us = self._now_us()
            message_id = renewed(letter.message_id, now_us) if force else letter.message_id
            await connection.execute(READY_AGAIN, dead_id, received_text(letter.headers), raw, now_us, message_id)
            await connection.execute(RELEASE, dead_id)
            await connection.fetch(DELETE, dead_id)

        await self._database.write(body)
        self._wake()

    async def discard(self, dead_id: int) -> None:
        """Give a dead letter up; its key goes on without it once no other letter holds it. Raises DeadLetterUnknown."""

        async def body(connection: Connection) -> None:
            await connection.fetch(LOCK, dead_id)
            rows = await connection.fetch(ONE, dead_id)
            if not rows:
                raise DeadLetterUnknown(dead_id=dead_id)
            await connection.fetch(DELETE, dead_id)
            await connection.execute(RELEASE, dead_id)
            if self._discarded is not None:
                await self._discarded(connection, letter_of(rows[0]), rows[0][14], self._now_us())

        await self._database.write(body)
        self._wake()


__all__ = ["HALT", "DeadLetter", "DeadLetterUnknown", "DeadLetters", "SubscriptionRetired", "bury"]
