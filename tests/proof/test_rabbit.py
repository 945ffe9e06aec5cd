"""RabbitMQ goes away and comes back: writes go on, bursts pile up, and everything is handled once, each key in order.

    clients ─► order service: gateway ─► PostgreSQL ─► relay ─► RabbitMQ ─► inventory service: worker

The orders here carry a number that counts up for each customer, and a customer is the key: so order can be seen.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.rabbit import RabbitServer
from dujiang.testing.servers import PostgresServer
from tests.cli.processes import APP, Run, Site

pytestmark = pytest.mark.proof

SHOP = "dujiang.systems.shop:app"
SETTLE_S = 90.0
CUSTOMERS, CLIENTS = 40, 8
AWAY, CALM, BURST, BURST_S = 1000, 25, 500, 5
TABLES = {
    "0001": "op.execute('CREATE TABLE desk_order (id BIGINT PRIMARY KEY, customer TEXT NOT NULL, number BIGINT NOT NULL)')",
    "0002": "op.execute('CREATE TABLE desk_seen (at BIGSERIAL PRIMARY KEY, customer TEXT NOT NULL, number BIGINT NOT NULL)')",
}
SOURCE = """
from dujiang import Model, key
from dujiang.data.sql import Sql

class Order(Model):
    customer: str
    number: int

class Ordered(Event):
    customer: str = key()
    number: int

WRITE = Sql("desk_write", "INSERT INTO desk_order (id, customer, number) VALUES ($1, $2, $3)", "Adds an order.")
SEEN = Sql("desk_seen", "INSERT INTO desk_seen (customer, number) VALUES ($1, $2)", "Adds an effect.")

@desk.write("POST /orders")
async def place(tx: Tx, body: Order) -> Order:
    await tx.fetch(WRITE, tx.new_id(), body.customer, body.number)
    tx.publish(Ordered(customer=body.customer, number=body.number))
    return body

@desk.react(Ordered, ordered=True)
async def see(tx: Tx, event: Ordered) -> None:
    await tx.fetch(SEEN, event.customer, event.number)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    """A RabbitMQ that is stopped and started by these tests alone."""
    with RabbitServer() as running:
        yield running


class Services:
    """The order service and the inventory service, as two processes on one database of their own."""

    def __init__(self, folder: Path, stack: ExitStack, postgres: PostgresServer, broker: str, app: str) -> None:
        database = postgres.create_database()
        self._postgres, self._name = postgres, database.rpartition("/")[2]

        def started(roles: str, instance: str) -> Run:
            run = Run(folder, roles, app, instance=instance, database=database, broker=broker)
            return stack.enter_context(run).started()

        self.orders, self.inventory = started("gateway,relay", "orders"), started("worker", "inventory")

    def rows(self, statement: str) -> list[tuple[str, ...]]:
        """Rows of the database, as text."""
        return [tuple(line.split("|")) for line in self._postgres.execute(statement, database=self._name).splitlines()]

    def value(self, statement: str) -> int:
        """The one number that a statement gives."""
        return int(self.rows(statement)[0][0])

    def seen(self, count: int) -> list[tuple[str, ...]]:
        """Customer and number of each effect in the order of their commits of one key, once there are so many."""
        eventually(lambda: self.value("SELECT count(*) FROM desk_seen") >= count, "all effects")
        return self.rows("SELECT customer, number FROM desk_seen ORDER BY at")

    def checks(self, of: Run) -> dict[str, Any]:
        """What a service says of its health."""
        found: dict[str, Any] = of.request("GET", "/health/ready").json["checks"]
        return found

    def connected(self, of: Run) -> bool:
        """Whether a service has a connection to RabbitMQ."""
        lines = of.request("GET", "/metrics").body.decode().splitlines()
        return any(line.startswith("dujiang_broker_connected_since_seconds 1") for line in lines)


def eventually(holds: Callable[[], Any], what: str) -> Any:
    """The first true answer of `holds`, asked for at most SETTLE_S; each question goes to another process."""
    until_s = time.monotonic() + SETTLE_S
    while not (found := holds()):
        assert time.monotonic() < until_s, f"not within {SETTLE_S} s: {what}"
    return found


class Clients:
    """Clients that place numbered orders; each has customers of its own, so that a customer's orders come in turn.

    Attributes:
        accepted: The orders that were answered 201, in turn for each customer.
        refused: What else was answered.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers = dict.fromkeys(range(CUSTOMERS), 0)
        self.accepted: list[tuple[str, str]] = []
        self.refused: list[Any] = []

    def place(self, count: int, rate: float = 0.0) -> None:
        """Place so many orders; `rate` each second, late ones at once; 0 = as fast as it goes."""
        began_s, pace = time.monotonic(), threading.Event()  # Which nobody sets: a pace waits for nothing.

        def client(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            for turn in range(number, count, CLIENTS):
                if rate:
                    pace.wait(max(0.0, began_s + turn / rate - time.monotonic()))
                self._place(connection, number + CLIENTS * (turn // CLIENTS % (CUSTOMERS // CLIENTS)))
            connection.close()

        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(client, number) for number in range(CLIENTS)]:
                done.result()

    def _place(self, connection: http.client.HTTPConnection, customer: int) -> None:
        number = self._numbers[customer] = self._numbers[customer] + 1
        body = json.dumps({"customer": f"customer-{customer}", "number": number})
        connection.request("POST", "/orders", body, {"content-type": "application/json"})
        response = connection.getresponse()
        said = response.read()
        if response.status == 201:
            self.accepted.append((f"customer-{customer}", str(number)))
        else:
            self.refused.append((response.status, said[:200]))


def in_turn(rows: list[tuple[str, ...]]) -> bool:
    """Whether each customer's numbers count up from 1, each once."""
    reached: dict[str, int] = {}
    for customer, number in rows:
        if int(number) != reached.get(customer, 0) + 1:
            return False
        reached[customer] = int(number)
    return True


def test_the_run_book(postgres: PostgresServer, server: RabbitServer, tmp_path: Path) -> None:
    """Start RabbitMQ and both services, order, see the stock reserved, order many at once, cut RabbitMQ off, see it mended.

    Restarted five times under the services' feet, RabbitMQ finds both alive each time, and every order ends reserved.
    """
    body = {"items": ["laptop", "mouse"], "total_amount": 1200.0, "user_id": 456}
    with ExitStack() as stack:
        services = Services(tmp_path, stack, postgres, server.url("runbook"), SHOP)

        def order(_: int) -> int:
            return services.orders.request("POST", "/orders/", body).status

        def reserved() -> int:
            return services.value("SELECT count(*) FROM shop_order WHERE status = 'reserved'")

        assert order(0) == 201
        eventually(lambda: reserved() == 1, "the first order's stock")
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(order, range(40))) == [201] * 40
        eventually(lambda: reserved() == 41, "the stock of all orders")
        for restart in range(1, 6):
            server.stop()
            eventually(lambda: not services.connected(services.orders), "the order service to notice")
            eventually(lambda: not services.connected(services.inventory), "the inventory service to notice")
            assert order(0) == 201
            eventually(lambda: services.checks(services.orders)["broker"]["status"] == "degraded", "health")
            server.start()
            eventually(lambda: services.connected(services.orders), "the order service to be connected again")
            eventually(lambda: services.connected(services.inventory), "the inventory service to be connected again")
            eventually(lambda: reserved() == 41 + restart, "the order of the outage")  # noqa: B023  (asked at once)
        lines = services.inventory.err.count("does not answer")
        codes = [services.inventory.stop(), services.orders.stop()]

    assert codes == [0, 0]
    assert 0 < lines < 5 * 60, "it tries again and again, and not as fast as it can"


def test_what_is_accepted_while_rabbitmq_is_stopped_is_handled_once_in_order(
    postgres: PostgresServer, server: RabbitServer, tmp_path: Path
) -> None:
    """A thousand orders are accepted while RabbitMQ is stopped; it is started: each has its effect once, in its order."""
    Site(tmp_path, TABLES).write(SOURCE)
    with ExitStack() as stack:
        services = Services(tmp_path, stack, postgres, server.url("stopped"), APP)
        clients = Clients(services.orders.port)
        clients.place(CUSTOMERS)
        services.seen(CUSTOMERS)
        server.stop()
        clients.place(AWAY)
        before = services.value("SELECT count(*) FROM desk_seen")
        server.start()
        seen = services.seen(CUSTOMERS + AWAY)

    assert clients.refused == []
    assert before == CUSTOMERS
    assert sorted(seen) == sorted(clients.accepted)
    assert in_turn(seen)


def test_a_burst_is_accepted_and_drains(postgres: PostgresServer, server: RabbitServer, tmp_path: Path) -> None:
    """From 25 orders a second to 500 for five seconds: each is accepted, has its effect once and in order; nothing is left."""
    Site(tmp_path, TABLES).write(SOURCE)
    with ExitStack() as stack:
        services = Services(tmp_path, stack, postgres, server.url("burst"), APP)
        clients = Clients(services.orders.port)
        clients.place(2 * CALM, rate=CALM)
        clients.place(BURST * BURST_S, rate=BURST)
        clients.place(2 * CALM, rate=CALM)
        seen = services.seen(4 * CALM + BURST * BURST_S)
        left = [services.value(f"SELECT count(*) FROM {table}") for table in ("dj_ready", "dj_running", "dj_dead")]

    assert clients.refused == []
    assert sorted(seen) == sorted(clients.accepted)
    assert in_turn(seen)
    assert left == [0, 0, 0]
