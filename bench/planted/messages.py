"""Bugs on the way of an event: outbox, relay, inbox, claims, leases, retries, dead letters."""

from __future__ import annotations

from bench.planted.bug import LEDGER, PAYMENTS, SHOP, Bug

BROKER = "src/dujiang/backends/sql/broker.py"
CONSUMER = "src/dujiang/messaging/consumer.py"
ENDING = "src/dujiang/messaging/ending.py"
INBOX = "src/dujiang/messaging/inbox.py"
OUTBOX = "src/dujiang/messaging/outbox.py"
RELAY = "src/dujiang/messaging/relay.py"
WORK = "src/dujiang/messaging/work.py"

RELAYING = (
    Bug(
        name="cursor_moves_before_routing",
        says="The cursor's row is locked for as short as possible: moved first, in a transaction of its own.",
        where=BROKER,
        old="""        async def body(connection: Connection) -> Passed:
            if not await connection.execute(MOVE, move.lease, move.floor, written(move.gaps)):
                return Passed(owned=False)
""",
        new="""        if not await self._database.write(lambda c: c.execute(MOVE, move.lease, move.floor, written(move.gaps))):
            return Passed(owned=False)

        async def body(connection: Connection) -> Passed:
""",
        app=SHOP,
        breaks="No committed event is lost.",
        shows="A kill of the relay's node between the two transactions: nobody routes the batch any more.",
    ),
    Bug(
        name="cursor_moves_to_the_newest",
        says="After a batch the relay has seen everything there is.",
        where="src/dujiang/messaging/broker.py",
        old='"UPDATE dj_relay SET floor_seq = $2,',
        new='"UPDATE dj_relay SET floor_seq = max($2, (SELECT coalesce(max(seq), 0) FROM dj_outbox)),',
        app=SHOP,
        breaks="No committed event is lost.",
        shows="An order commits between the relay's read and its move of the cursor, and the relay's node dies before its next"
        " look; alive, its own memory hides the mistake.",
    ),
    Bug(
        name="outbox_read_without_order",
        says="Rows come in the order of the primary key anyway.",
        where=OUTBOX,
        old="WHERE seq > $1 ORDER BY seq LIMIT $2",
        new="WHERE seq > $1 LIMIT $2",
        app=SHOP,
        breaks="No committed event is lost.",
        shows="Two events in one batch, and a database that hands unordered rows out in another order: the cursor's new place"
        " and the routed range are then wrong.",
    ),
    Bug(
        name="relay_sleeps_ever_longer",
        says="An idle relay should cost nothing: the wait doubles each time.",
        where=RELAY,
        old="min(POLL_S_MAX, wait_s * 2)",
        new="wait_s * 2",
        app=SHOP,
        breaks="A committed event is handled promptly; a bell is only an optimisation.",
        shows="Some minutes without orders, then one on a node that does not relay, so that no bell rings there: its event"
        " waits about as long as the silence was.",
    ),
    Bug(
        name="gap_is_no_gap",
        says="A number that is missing was rolled back.",
        where="src/dujiang/messaging/gaps.py",
        old="        if expected < number:\n            yield Gap(expected, number - 1)\n",
        new="",
        app=SHOP,
        breaks="No committed event is lost.",
        shows="Two transactions draw 41 and 42, 42 commits first and is relayed, 41 commits then.",
        needs="many_writers",
    ),
    Bug(
        name="gap_stamped_with_an_old_bound",
        says="The horizon was read together with the batch, so it is as good a stamp as any.",
        where=RELAY,
        old="gaps = (*left_of(self._gaps, seen, horizon, looked_to), *new_gaps(self._floor, seen))",
        new="gaps = stamped((*left_of(self._gaps, seen, horizon, looked_to), *new_gaps(self._floor, seen)), horizon)",
        app=SHOP,
        breaks="No committed event is lost.",
        shows="The gap's owner is younger than the oldest transaction of that moment; the oldest ends, the gap is closed, the"
        " owner commits.",
        needs="many_writers",
    ),
)

HANDLING = (
    Bug(
        name="inbox_always_says_first",
        says="DO NOTHING returns no row for a message that is there; DO UPDATE returns it always.",
        where=INBOX,
        old='VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING message_id"',
        new="VALUES ($1, $2)"
        ' ON CONFLICT (message_id, sub_id) DO UPDATE SET sub_id = excluded.sub_id RETURNING message_id"',
        app=SHOP,
        breaks="A message has one effect, though it is delivered twice.",
        shows="A message is delivered twice: its stock is reserved twice.",
    ),
    Bug(
        name="inbox_noted_after_commit",
        says="The handler's transaction only looks whether it knows the message; noting it can wait.",
        where=INBOX,
        old="""        rows = [row for one in message_ids for row in await tx.fetch(INSERT_ONE, one, sub_id)]
""",
        new="""        from dujiang.kernel.context import current

        seen = Sql("inbox_seen", "SELECT 1 FROM dj_inbox WHERE message_id = $1 AND sub_id = $2", "Looks for a message.")
        rows = [(one,) for one in dict.fromkeys(message_ids) if not await tx.fetch(seen, one, sub_id)]
        spawn = current().node.tasks.spawn
        for (one,) in rows:
            tx.after_commit.append(lambda one=one: spawn(run_one(database, INSERT_ONE, one, sub_id), name="inbox"))
""",
        app=SHOP,
        breaks="A message has one effect, though it is delivered twice.",
        shows="A kill between the handler's commit and the note, and a second delivery; or two deliveries handled at once.",
    ),
    Bug(
        name="lost_claim_is_not_looked_for",
        says="A claim that failed is simply tried again.",
        where=CONSUMER,
        old="""                logger.warning("%s waits: %s", self.subscription.name, error)
                self._doubt()
""",
        new="""                logger.warning("%s waits: %s", self.subscription.name, error)
""",
        app=SHOP,
        breaks="Nothing is stuck: accepted work ends while its process lives.",
        shows="The reply to the claim is lost after its commit: the work lies under a living lease and in nobody's hands.",
    ),
    Bug(
        name="consumer_waits_for_the_bell_alone",
        says="Whoever makes work rings the bell; looking now and then is waste.",
        where=CONSUMER,
        old="min(wait_s, due_s if due_s is not None else wait_s)",
        new="due_s",
        app=SHOP,
        breaks="Nothing is stuck: a retry runs when it is due.",
        shows="A handler fails once and its event is due again a moment later; or a node dies and its claims are put back: no"
        " bell rings for either until the next event comes.",
    ),
    Bug(
        name="unknown_commit_settled_the_wrong_way",
        says="The claim is still there, so our transaction has worked on it.",
        where=WORK,
        old="return not await still_running(connection, claim)",
        new="return await still_running(connection, claim)",
        app=SHOP,
        breaks="Nothing is stuck, and nothing is counted as done that was rolled back.",
        shows="The reply to a reaction's COMMIT is lost and nothing was committed: the consumer takes the claim for done and"
        " lets it lie under its living lease.",
    ),
    Bug(
        name="head_of_key_by_due_time",
        says="What is due first goes first.",
        where=WORK,
        old="""               ORDER BY r.seq LIMIT 1),
              (SELECT r.run_at FROM dj_ready r WHERE r.sub_id = $1 AND r.okey IS NOT NULL AND r.okey = k.okey
               ORDER BY r.seq LIMIT 1),
""",
        new="""               ORDER BY r.run_at, r.seq LIMIT 1),
              (SELECT r.run_at FROM dj_ready r WHERE r.sub_id = $1 AND r.okey IS NOT NULL AND r.okey = k.okey
               ORDER BY r.run_at, r.seq LIMIT 1),
""",
        app=LEDGER,
        breaks="Events with one key are handled in commit order.",
        shows="The first event of an account fails once and waits for its retry; the second one overtakes it.",
    ),
)

ENDINGS = (
    Bug(
        name="late_ack_ends_anothers_claim",
        says="A claim only ever gets newer, so an older holder may end it too.",
        where=WORK,
        old='"DELETE FROM dj_running WHERE sub_id = $1 AND seq = $2 AND attempt = $3 AND lease = $4 RETURNING 1"',
        new='"DELETE FROM dj_running WHERE sub_id = $1 AND seq = $2 AND attempt >= $3 AND lease >= $4 RETURNING 1"',
        app=SHOP,
        breaks="No event is lost; who lost its lease ends nothing.",
        shows="A slow node's lease ends and another node has taken its claim; the slow one's handler fails and gives the claim"
        " back: the fenced copy to ready finds nothing, the unfenced delete takes the other's claim, whose ack then fails.",
    ),
    Bug(
        name="retry_forgets_attempts",
        says="A run that failed did not count.",
        where=ENDING,
        old="await self.give_back(claim, now_us + int(wait_s * 1e6), forget_attempt=uncounted)",
        new="await self.give_back(claim, now_us + int(wait_s * 1e6), forget_attempt=True)",
        app=LEDGER,
        breaks="Poison ends as a dead letter after its bounded tries.",
        shows="A handler that fails each time: its message is tried for a day, and its key waits behind it.",
    ),
    Bug(
        name="retry_in_two_transactions",
        says="First it is safe in ready, then it may go from running.",
        where=WORK,
        old="""        await end_claim(connection, name, claim)

    await database.write(body)
""",
        new="""
    await database.write(body)
    await database.write(lambda connection: end_claim(connection, name, claim))
""",
        app=SHOP,
        breaks="Nothing is stuck.",
        shows="A kill between the two: the row is in both tables, so that neither the reaper nor a claim can move it: both break"
        " on its number, and with it everything behind it.",
    ),
    Bug(
        name="age_in_milliseconds",
        says="A slip between milliseconds and seconds.",
        where=ENDING,
        old="(now_us - message.created_us) / 1e6",
        new="(now_us - message.created_us) / 1e3",
        app=SHOP,
        breaks="Only poison is dead.",
        shows="An event is older than 87 seconds, after an outage or a few lease times, and its handler then fails once.",
    ),
    Bug(
        name="dead_letter_kept_for_keys_only",
        says="A dead letter is kept because a key waits for it.",
        where="src/dujiang/messaging/deadletter.py",
        old="""        await connection.execute(INSERT, *row)
""",
        new="""        if holds is not None:
            await connection.execute(INSERT, *row)
""",
        app=SHOP,
        breaks="Nothing is dropped silently.",
        shows="A message of an unordered reaction that cannot be read or fails each time: it is counted dead, and gone.",
    ),
    Bug(
        name="one_poison_halts_everybody",
        says="What is not to be skipped holds what follows.",
        where=ENDING,
        old='if subscription.on_fail == "halt":',
        new='if subscription.on_fail != "skip":',
        app=SHOP,
        breaks="Poison never stops a queue; a failing key parks alone.",
        shows="One poison message: every later event of the subscription stays ready for ever.",
    ),
    Bug(
        name="held_key_goes_on",
        says="The hold of the whole subscription is what stops a claim.",
        where=WORK,
        old="h.okey IN (k.okey, $4)",
        new="h.okey = $4",
        app=LEDGER,
        breaks="A key waits behind its dead event.",
        shows="An account's event is dead; the next ones write lines under its number.",
    ),
    Bug(
        name="ended_lease_counts_as_alive",
        says="A lease whose row is there belongs to a process.",
        where=WORK,
        old="WHERE p.lease = r.lease AND p.expires_us > 0)",
        new="WHERE p.lease = r.lease)",
        app=SHOP,
        breaks="Nothing is stuck.",
        shows="A slow node claims after its lease was ended by another and before it notices; it then drops what it holds."
        " Nobody ends that lease a second time, and only the look for orphans would find the claim.",
    ),
    Bug(
        name="beat_in_milliseconds",
        says="A slip between milliseconds and microseconds: a beat extends the lease by 20 ms.",
        where="src/dujiang/data/process.py",
        old="statement(BEAT, self.lease, now_us + int(LEASE_S * 1e6),",
        new="statement(BEAT, self.lease, now_us + int(LEASE_S * 1e3),",
        app=PAYMENTS,
        breaks="Nothing is stuck: work that takes longer than a beat ends.",
        shows="Two nodes and a bank that takes ten seconds: every node ends the other's lease at each beat, and the charge is"
        " cancelled and begun again for ever. Effects stay single: the fence holds.",
    ),
    Bug(
        name="cleaner_forgets_what_was_handled",
        says="A slip between seconds and microseconds in the horizon of the cleaning.",
        where="src/dujiang/messaging/partitions.py",
        old="inbox.delete_slice(self._database, now_us - inbox.HORIZON_US)",
        new="inbox.delete_slice(self._database, now_us - inbox.HORIZON_US // 1_000_000)",
        app=SHOP,
        breaks="A message has one effect within two weeks.",
        shows="A message is delivered again half a minute after it was handled, when its node has cleaned.",
    ),
)
MESSAGES = (*RELAYING, *HANDLING, *ENDINGS)
