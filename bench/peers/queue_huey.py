"""huey on SQLite: WAL, synchronous=FULL, eight threads; a task is popped before it runs, so a crash loses it.

usage: queue_huey.py prepare | work | single FIRST COUNT | send FIRST COUNT GAP_S
"""

import json
import os
import sys
import time

from huey import SqliteHuey
from marks import mark

huey = SqliteHuey("bench", filename=os.environ["BENCH_DATABASE"], fsync=True, results=False)


@huey.task()
def handle(number: int, sent_ns: int) -> None:
    """The job."""
    mark(number, sent_ns)


def fill(first: int, count: int, gap_s: float) -> None:
    """Enqueue, each by a commit of its own."""
    began = time.perf_counter()
    for number in range(first, first + count):
        handle(number, time.time_ns())
        if gap_s:
            time.sleep(gap_s * (0.5 + number * 0.618 % 1))
    took_s = time.perf_counter() - began
    (synchronous,) = huey.storage.conn.execute("PRAGMA synchronous").fetchone()
    print(json.dumps({"seconds": took_s, "synchronous": synchronous}))


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "work":
        huey.create_consumer(workers=8, worker_type="thread").run()
    elif verb in ("send", "single"):
        fill(int(rest[0]), int(rest[1]), float(rest[2]) if verb == "send" else 0.0)
