"""What every orders peer shares: the bodies, and how an answer is made and stored.

An order is one transaction of five statements: claim the key, take stock, insert the order, insert the outbox row, store
the answer under the key. A repeated key gives the stored bytes; another body under it is refused with 422. `/plain` is
the same route in the form that most people write: no key, no stored answer.
"""

import hashlib
import os

POOL_SIZE = int(os.environ.get("BENCH_POOL", "30"))
CONSUMES = os.environ.get("BENCH_CONSUMER") == "1"
DATABASE = os.environ.get("BENCH_DATABASE", "")
CONSUMER_BATCH = 100
CONSUMER_IDLE_S = 0.02
OUT_OF_STOCK = b'{"code":"out_of_stock"}'
KEY_REUSED = b'{"code":"key_reused"}'
IN_FLIGHT = b'{"code":"in_flight"}'
TOPIC = "order.placed"


def fingerprint(body: bytes) -> bytes:
    """What is kept of a body to tell a repeat from another request under the same key."""
    return hashlib.sha256(body).digest()
