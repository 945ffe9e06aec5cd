"""Bugs of locks: what is written by a holder that has been overtaken."""

from __future__ import annotations

from bench.planted.bug import STOCK, Bug

LOCKS = (
    Bug(
        name="lock_without_fence",
        says="The lock is held for the whole body, so nobody else can have written.",
        where="bench/planted/apps/stock.py",
        old="""    held.fence(tx)
""",
        new="",
        app=STOCK,
        breaks="The total is the sum of what was counted.",
        shows="A machine that is paused for longer than the ttl between the read and the write, while another one counts.",
        author="platform",
    ),
    Bug(
        name="fence_looks_at_the_name_alone",
        says="The lock's row is there and its time has not passed, so it is held.",
        where="src/dujiang/backends/sql/lock.py",
        old="""    "UPDATE dj_lock SET token = token WHERE name = $1 AND token = $2 AND until_us >= $3 RETURNING 1",
""",
        new="""    "UPDATE dj_lock SET token = token WHERE name = $1 AND token >= $2 AND until_us >= $3 RETURNING 1",
""",
        app=STOCK,
        breaks="The total is the sum of what was counted.",
        shows="The same pause; another one still holds the lock when the sleeper writes.",
        author="platform",
    ),
)
