"""RabbitMQ as the port `broker`, from 3.10 on: quorum queues, confirms, manual acknowledgement.

How each promise of messaging/broker.py is kept:
  1. durable      publisher confirms of quorum queues, with `mandatory`; the cursor moves after the last one. A node that
                  is killed while fresh can lose confirmed messages all the same: messaging/reconcile.py finds them
  2. repeats      the first batch of a relay is marked; the inbox drops what was handled
  3. redelivery   unacknowledged messages return when their connection ends; claims return with their lease
  4. key order    the partitions of an ordered subscription have a single active consumer each

link.py says which queues there are and why, topology.py what they are called; envelope.py, how an event travels. A
cluster's tolerance of a lost node is that of its quorum queues: three nodes survive one, a single one survives its restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from dujiang.backends.rabbitmq.link import RabbitCarrier
from dujiang.backends.rabbitmq.topology import exchange_of
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.carried import CarriedBroker

if TYPE_CHECKING:
    from dujiang.data.database import Database
    from dujiang.kernel.node import Node

QUEUE_LIMIT = 1_000_000
CONNECT_S, CONFIRM_S, HEARTBEAT_S = 10.0, 30.0, 10
OURS = ("prefix", "queue_limit", "connect_timeout", "confirm_timeout")


@dataclass(eq=False, kw_only=True)
class BrokerOptionInvalid(DujiangError):
    """An option in the URL of the broker has a value that means nothing."""

    code = "broker_option_invalid"
    move = "fix"
    says = "the option {option!r} of the setting `broker` is {value!r}"
    cure = "{how}"

    option: str
    value: str
    how: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the URL of a broker says.

    Attributes:
        driver_url: What the driver gets.
        shown: Without user and password.
        prefix: Stands before the names of exchange and queues.
        queue_limit: Messages that a queue holds; 0 = no limit. Fixed once the queues exist.
        connect_timeout_s: How long connecting may take.
        confirm_timeout_s: How long an answer or a confirm may take.
    """

    driver_url: str
    shown: str
    prefix: str
    queue_limit: int
    connect_timeout_s: float
    confirm_timeout_s: float

    @property
    def exchange(self) -> str:
        """The exchange to which events are published."""
        return exchange_of(self.prefix)


def options_of(url: str) -> Options:
    """Read a URL: `amqp://user:password@host:5672/vhost?prefix=shop`. Raises BrokerOptionInvalid."""
    parts = urlsplit(url)
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    ours = {name: said.pop(name) for name in OURS if name in said}
    said.setdefault("heartbeat", str(HEARTBEAT_S))
    vhost = parts.path if parts.path.strip("/") else "/"
    driver_url = urlunsplit((parts.scheme, parts.netloc, vhost, urlencode(said), ""))
    prefix = ours.get("prefix", "dj")
    if not prefix.replace("-", "").replace("_", "").isalnum() or len(prefix) > 100:
        raise BrokerOptionInvalid(option="prefix", value=prefix, how="use letters, digits, - and _, at most 100")
    return Options(
        driver_url=driver_url,
        shown=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{vhost}",
        prefix=prefix,
        queue_limit=int(number(ours, "queue_limit", QUEUE_LIMIT)),
        connect_timeout_s=number(ours, "connect_timeout", CONNECT_S),
        confirm_timeout_s=number(ours, "confirm_timeout", CONFIRM_S),
    )


def number(given: dict[str, str], name: str, default: float) -> float:
    """An option that is a number, not below 0."""
    text = given.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e12:
        raise BrokerOptionInvalid(option=name, value=text, how="write a number, 0 or more; times in seconds")
    return value


class RabbitBroker(CarriedBroker):
    """The broker in RabbitMQ.

    Args:
        url: `amqp://user:password@host:5672/vhost`, or `amqps:`; see `options_of`.
        node: The running copy.
        database: Where outbox and work are.

    Raises:
        BrokerOptionInvalid: When an option of the URL means nothing.
    """

    def __init__(self, url: str, node: Node, database: Database) -> None:
        options = options_of(url)
        super().__init__(options.shown, node, database, RabbitCarrier(options, node))
