"""The ledger by hand: plain SQL on asyncpg, as somebody who knows PostgreSQL would write it; one transaction for each.

    python ledger_asyncpg.py URL hot|many SECONDS

Locks in the order of ids, two entries with number, balance and hash, the transfer under a unique reference, both
balances, and a row of the outbox: six statements between BEGIN and COMMIT. No key and no stored answer.
"""

import asyncio
import hashlib
import json
import sys
import time

import asyncpg
from ledger_shapes import ACCOUNTS, CLIENTS, HOT, POOL, WARM_S, legs

TABLES = f"""
CREATE TABLE account (id BIGINT PRIMARY KEY, owner TEXT NOT NULL, currency TEXT NOT NULL, floor BIGINT,
    frozen BOOL NOT NULL, balance BIGINT NOT NULL, held BIGINT NOT NULL, entries BIGINT NOT NULL, head TEXT NOT NULL);
CREATE TABLE transfer (id BIGSERIAL PRIMARY KEY, reference TEXT NOT NULL, debit BIGINT NOT NULL, credit BIGINT NOT NULL,
    amount BIGINT NOT NULL, state TEXT NOT NULL, created TIMESTAMPTZ NOT NULL DEFAULT now(), UNIQUE (debit, reference));
CREATE TABLE entry (account BIGINT NOT NULL, number BIGINT NOT NULL, transfer BIGINT NOT NULL, amount BIGINT NOT NULL,
    balance BIGINT NOT NULL, posted TIMESTAMPTZ NOT NULL DEFAULT now(), hash TEXT NOT NULL,
    PRIMARY KEY (account, number), UNIQUE (transfer, account));
CREATE INDEX ON entry (account, posted);
CREATE TABLE outbox (id BIGSERIAL PRIMARY KEY, topic TEXT NOT NULL, payload TEXT NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT now());
INSERT INTO account SELECT {HOT} + n, 'bench', 'EUR', NULL, false, 0, 0, 0, repeat('0', 64)
    FROM generate_series(0, {ACCOUNTS - 1}) n;
"""
LOCK = "SELECT * FROM account WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE"
KNOWN = "SELECT id FROM transfer WHERE debit = $1 AND reference = $2"
ADD = "INSERT INTO transfer (reference, debit, credit, amount, state) VALUES ($1, $2, $3, $4, 'posted') RETURNING id"
ENTER = """INSERT INTO entry (account, number, transfer, amount, balance, hash)
    VALUES ($1, $2, $3, $4, $5, $6), ($7, $8, $3, $9, $10, $11)"""
CHANGE = """UPDATE account a SET balance = n.balance, entries = n.entries, head = n.head
    FROM (VALUES ($1::bigint, $2::bigint, $3::bigint, $4::text), ($5, $6, $7, $8)) AS n(id, balance, entries, head)
    WHERE a.id = n.id"""
TELL = "INSERT INTO outbox (topic, payload) VALUES ('posted', $1)"


def linked(row, transfer, amount):
    """The account's next entry: number, amount, balance, hash."""
    number, balance = row["entries"] + 1, row["balance"] + amount
    text = f"{row['head']}\n{row['id']}\n{number}\n{transfer}\n{amount}\n{balance}"
    return number, amount, balance, hashlib.sha256(text.encode()).hexdigest()


async def move(pool, debit, credit, amount, reference):
    """One transfer."""
    async with pool.acquire() as connection, connection.transaction():
        rows = {row["id"]: row for row in await connection.fetch(LOCK, [debit, credit])}
        one, other = rows[debit], rows[credit]
        if one["frozen"] or other["frozen"] or one["currency"] != other["currency"]:
            raise ValueError("refused")
        if one["floor"] is not None and one["balance"] - one["held"] - amount < one["floor"]:
            raise ValueError("refused")
        if await connection.fetchval(KNOWN, debit, reference) is not None:
            return
        transfer = await connection.fetchval(ADD, reference, debit, credit, amount)
        a, b = linked(one, transfer, -amount), linked(other, transfer, amount)
        await connection.execute(
            ENTER, debit, a[0], transfer, a[1], a[2], a[3], credit, b[0], b[1], b[2], b[3]
        )
        await connection.execute(CHANGE, debit, a[2], a[0], a[3], credit, b[2], b[0], b[3])
        await connection.execute(TELL, json.dumps({"transfer": transfer, "debit": debit, "credit": credit}))


async def main(url, hot, seconds):
    """Warm, then count for some seconds."""
    plain = await asyncpg.connect(url)
    await plain.execute(TABLES)
    numbers, done = list(range(CLIENTS)), 0

    async with asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool:

        async def client(place, until):
            nonlocal done
            while time.perf_counter() < until:
                await move(pool, *legs(numbers[place], hot=hot), 100, f"n{numbers[place]}")
                numbers[place] += CLIENTS
                done += 1

        async def load(took_s):
            began = time.perf_counter()
            await asyncio.gather(*(client(place, began + took_s) for place in range(CLIENTS)))
            return time.perf_counter() - began

        await load(WARM_S)
        warm, done = done, 0
        took_s = await load(seconds)
    entries = await plain.fetchval("SELECT count(*) FROM entry")
    balanced = entries == 2 * (done + warm) and await plain.fetchval("SELECT sum(balance) = 0 FROM account")
    await plain.close()
    print(json.dumps({"transfers": done, "seconds": took_s, "balanced": bool(balanced)}))


asyncio.run(main(sys.argv[1], sys.argv[2] == "hot", float(sys.argv[3])))
