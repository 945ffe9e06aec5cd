"""Bugs on the way of a write: the key, the answer, the commit."""

from __future__ import annotations

from bench.planted.bug import COUPONS, SHOP, WALLET, Bug

IDEMPOTENCY = "src/dujiang/gateway/idempotency.py"
WRITE = "src/dujiang/write.py"
TX = "src/dujiang/messaging/tx.py"

WRITING = (
    Bug(
        name="event_published_after_commit",
        says="The events need no place in the closing statement; they are written as soon as the commit is through.",
        where=TX,
        old="""                    self.close_with(piece)
""",
        new="""                    store = self._database.statement
                    spawn = current().node.tasks.spawn
                    self.after_commit.append(
                        lambda piece=piece: spawn(store(piece.sql, *piece.args), name="publish")
                    )
""",
        app=SHOP,
        breaks="An event exists if and only if its transaction commits.",
        shows="A kill, or a lost reply, between the order's commit and the insert of its event: the order stays pending.",
    ),
    Bug(
        name="savepoint_keeps_its_events",
        says="A savepoint undoes statements; events are no statements.",
        where=TX,
        old="""
        del self._published[mark[-2] :]""",
        new="",
        app=COUPONS,
        breaks="What is rolled back is not announced.",
        shows="No fault needed: a redemption is refused as used up inside its savepoint, in a batch that commits; its event"
        " is handled, and the savings count a redemption that does not exist.",
    ),
    Bug(
        name="answer_stored_after_commit",
        says="The answer's row is taken off the hot path: it is written right after the commit.",
        where=WRITE,
        old="""                for piece in self._idempotency.store_pieces(tx, [key], [answer]):
                    tx.close_with(piece)
""",
        new="""                for piece in self._idempotency.store_pieces(tx, [key], [answer]):
                    spawn, store = self._node.tasks.spawn, self._database.statement
                    tx.after_commit.append(lambda piece=piece: spawn(store(piece.sql, *piece.args), name="answer"))
""",
        app=WALLET,
        breaks="A retry with the same key gives the same bytes, and the work is done once.",
        shows="A kill between the commit and the insert of the answer, or a retry on another node in that moment: the"
        " retry pays again.",
    ),
    Bug(
        name="refusal_commits_what_was_done",
        says="A refusal is an answer like any other; stored in the same transaction it costs no second one.",
        where=WRITE,
        old="""                value = await self.verb.function(
                    tx, **call.values, **self._provided, **dict.fromkeys(responses, response)
                )
            answer = self.answer(value, response)
""",
        new="""                extra = dict.fromkeys(responses, response)
                try:
                    answer = self.answer(await self.verb.function(tx, **call.values, **self._provided, **extra))
                except Refusal as refusal:
                    answer = problem(refusal)
""",
        app=WALLET,
        breaks="A refusal is rolled back and leaves nothing behind.",
        shows="No fault needed: carol pays alice more than she has; alice's row comes first and keeps the money.",
    ),
    Bug(
        name="refusal_not_stored",
        says="Only successes need to be remembered; a refused request may be tried again.",
        where=WRITE,
        old="answer = await self._idempotency.store_refusal(key, problem(refusal))",
        new="answer = problem(refusal)",
        app=WALLET,
        breaks="A retry with the same key gives the same bytes, refusals included.",
        shows="No fault needed: a payment is refused, a deposit covers it, the payment is retried: 201 instead of 409.",
    ),
    Bug(
        name="late_refusal_wins",
        says="We have just made this answer, so it is the one to give.",
        where=IDEMPOTENCY,
        old="return stored(rows[0], key) if rows else answer",
        new="return answer",
        app=WALLET,
        breaks="One key has one answer, whichever process gives it.",
        shows="Two nodes get one request. The first refuses and is slow before it stores the refusal; meanwhile a deposit"
        " comes in and the second node pays and stores 201; the first answers 409.",
    ),
    Bug(
        name="key_without_fingerprint",
        says="Whoever knows the key has the right to the answer.",
        where=IDEMPOTENCY,
        old="if row[6] == key.version and bytes(row[1]) != key.fingerprint:",
        new="if not row[1]:",
        app=WALLET,
        breaks="Another body under a used key is refused with 422.",
        shows="No fault needed: a second payment of another amount under the first one's key gets the first one's receipt,"
        " and no money moves.",
    ),
    Bug(
        name="fingerprint_without_path",
        says="The body is the request; the path names the operation, which is part of the scope already.",
        where=IDEMPOTENCY,
        old="digest = hashlib.sha256(parts.encode())",
        new="digest = hashlib.sha256()",
        app=SHOP,
        breaks="Another request under a used key is refused with 422.",
        shows="No fault needed: the stock of a second product is set to the same number under the first one's key: 200"
        " with the first one's view, and the second product keeps its stock.",
    ),
    Bug(
        name="any_answer_settles_the_commit",
        says="If the key has an answer, our commit went through.",
        where=IDEMPOTENCY,
        old="return bool(rows and made and bytes(rows[0][4]) == made[-1].body)",
        new="return bool(rows)",
        app=WALLET,
        breaks="An acknowledged write is there; one key has one answer.",
        shows="The reply to COMMIT is lost and nothing was committed; before the node settles it, a retry of the request on"
        " another node commits its own payment: the first node acknowledges a payment that does not exist.",
    ),
    Bug(
        name="keys_live_for_a_minute",
        says="A slip between milliseconds and microseconds.",
        where="src/dujiang/app/runtime.py",
        old="keep_us=int(settings.idempotency_ttl_s * 1e6)",
        new="keep_us=int(settings.idempotency_ttl_s * 1e3)",
        app=WALLET,
        breaks="A key is remembered for a day.",
        shows="A client retries 87 seconds after its first request, for example after an outage: it pays twice.",
    ),
    Bug(
        name="batch_keeps_lost_answers",
        says="The answers are filled in as the batch goes; nobody reads them before.",
        where=WRITE,
        old="""            outcomes.clear()
""",
        new="",
        app=COUPONS,
        breaks="An acknowledged write is there.",
        shows="A serialization failure, or a lost group, sends a batch back after its handler ran: the second run finds every"
        " member answered, commits nothing, and 201 goes out.",
    ),
    Bug(
        name="answered_before_the_disk",
        says="Those who came first have waited for others to join; they need not wait for the disk too.",
        where="src/dujiang/backends/sqlite/writer.py",
        old="""                    await self._threads.run(self.driver.execute, "COMMIT")
""",
        new="""                    if len(group.members) > 1:
                        self._settle(group)
                    await self._threads.run(self.driver.execute, "COMMIT")
""",
        app=SHOP,
        breaks="A 201 survives the death of the process and the loss of power.",
        shows="Two writes share a group, and a kill, or a failing disk, comes between their answers and the end of COMMIT.",
        needs="writer",
    ),
)
