"""Our side of the ledger claim: transfers of 64 clients through the shipped system, each under a key, in one process.

    python -m bench.ours.ledger URL hot|many SECONDS

prints one JSON object: `transfers` that were answered with success in `seconds`, and what the store says of them afterwards.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from bench.peers.ledger_shapes import ACCOUNTS, CLIENTS, HOT, POOL, WARM_S, legs
from dujiang import Runtime, Settings, Tx
from dujiang.kernel.node import Node
from dujiang.systems.ledger import app
from dujiang.systems.ledger.accounts import new_row
from dujiang.systems.ledger.contract import NewTransfer
from dujiang.systems.ledger.tables import account, entry
from dujiang.systems.ledger.transfers import move_money

AMOUNT = Decimal("1.00")


async def measured(url: str, *, hot: bool, seconds: float) -> dict[str, Any]:
    """Start, open the accounts, warm, and count for some seconds."""
    settings = Settings(database=url, data=Path(tempfile.mkdtemp(prefix="bench-ledger-")), pool_size=POOL)
    runtime = Runtime(app, settings, Node.system(), roles=("gateway", "write"))
    done = 0

    async def prepare(tx: Tx) -> None:
        rows = [new_row(tx, HOT + number, "bench", "EUR", floor=None) for number in range(ACCOUNTS)]
        await tx.execute(insert(account), rows)

    async def client(place: int, until: float) -> None:
        nonlocal done
        number = place
        while time.perf_counter() < until:
            debit, credit = legs(number, hot=hot)
            body = NewTransfer(user_id="bench", debit=debit, credit=credit, amount=AMOUNT, reference=f"n{number}")
            await runtime.run(move_money, (body,), {}, f"n{number}")
            number += CLIENTS
            done += 1
        numbers[place] = number

    async def load(took_s: float) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(client(numbers[place], began + took_s) for place in range(CLIENTS)))
        return time.perf_counter() - began

    async with runtime:
        await runtime.transact(prepare)
        numbers = dict(enumerate(range(CLIENTS)))
        await load(WARM_S)
        warm, done = done, 0
        took_s = await load(seconds)

        async def count(db: Any) -> int:
            own = select(func.count()).where(entry.c.account_id >= HOT)
            return int((await db.execute(own)).scalar_one())

        entries = await runtime.read(count)
        broken = [violation.name for violation in await runtime.audit()]
    return {"transfers": done, "seconds": took_s, "balanced": entries == 2 * (done + warm) and not broken}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measured(sys.argv[1], hot=sys.argv[2] == "hot", seconds=float(sys.argv[3])))))
