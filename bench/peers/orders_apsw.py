"""The limit on SQLite: the five statements of an order on one connection, in one thread, without HTTP.

usage: python orders_apsw.py FILE SECONDS ORDERS_PER_COMMIT     prints {"orders": n, "seconds": s, "synchronous": 2}
"""

import hashlib
import json
import sys
import time

import apsw

CLAIM = "INSERT INTO keys (key, fingerprint) VALUES (?, ?) ON CONFLICT DO NOTHING"
TAKE = "UPDATE stock SET quantity = quantity - ?2 WHERE sku = ?1 AND quantity >= ?2"
PLACE = "INSERT INTO orders (user_id, sku, quantity, status) VALUES (?, ?, ?, 'new') RETURNING id"
ANNOUNCE = "INSERT INTO outbox (topic, payload) VALUES ('order.placed', ?)"
STORE = "UPDATE keys SET status = 201, answer = ? WHERE key = ?"


def main(path: str, seconds: float, group: int) -> None:
    """Write for `seconds`, `group` orders per commit."""
    connection = apsw.Connection(path)
    run = connection.execute
    run("PRAGMA journal_mode = WAL")
    run("PRAGMA synchronous = FULL")
    synchronous = run("PRAGMA synchronous").fetchone()[0]
    count, first = 0, time.perf_counter()
    while (took_s := time.perf_counter() - first) < seconds:
        run("BEGIN IMMEDIATE")
        for _ in range(group):
            count += 1
            key, user_id, sku = f"limit-{count}", count % 1000 + 1, count * 7919 % 10000 + 1
            run(CLAIM, (key, hashlib.sha256(key.encode()).digest()))
            run(TAKE, (sku, 1))
            id_ = run(PLACE, (user_id, sku, 1)).fetchone()[0]
            view = json.dumps({"id": id_, "user_id": user_id, "sku": sku, "quantity": 1, "status": "new"})
            run(ANNOUNCE, (view,))
            run(STORE, (view.encode(), key))
        run("COMMIT")
    print(json.dumps({"orders": count, "seconds": took_s, "synchronous": synchronous}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
