"""Runtime: one running copy of an app; any number of them live in one process.

    start   database ─► schema ─► partitions ─► process lease ─► seed ─► subscriptions ─► relay ─► consumers ─► upkeep
    stop    the same, backwards: claim nothing more, let what runs end, give the rest back, end the lease, close

A failed start stops what had started. Nothing here is global: the drill runs a cluster of copies of one app, each with a
node of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

from pydantic_core import to_json

from dujiang.app.composition import Composition
from dujiang.app.counting import Counting
from dujiang.app.schema import Schema
from dujiang.app.upkeep import Upkeep
from dujiang.backends.table import adapter, load
from dujiang.console.operations import Operations
from dujiang.data.process import ProcessLease
from dujiang.data.transaction import transact
from dujiang.gateway.guard import Guard, Limits
from dujiang.gateway.idempotency import Idempotency
from dujiang.gateway.routes import Call
from dujiang.kernel.context import Context, current_or_none, entered
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.node import Node
from dujiang.kernel.service import Services
from dujiang.messaging.bell import Bells
from dujiang.messaging.consumer import Consumer
from dujiang.messaging.deadletter import DeadLetters
from dujiang.messaging.partitions import Cleaner
from dujiang.messaging.relay import Relay
from dujiang.messaging.subscription import activate
from dujiang.messaging.tx import OutboxGauge, Read, Tx
from dujiang.messaging.work import orphaned_leases, release_lease
from dujiang.read import BoundRead, ReadVerb
from dujiang.telemetry.health import Health
from dujiang.telemetry.metrics import Metrics
from dujiang.telemetry.tracing import recheck
from dujiang.telemetry.watch import LoopWatch
from dujiang.write import BoundWrite, Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from dujiang.app.declaration import App
    from dujiang.data.database import Connection, Database
    from dujiang.kernel.ids import IdMaker
    from dujiang.messaging.broker import Broker
    from dujiang.messaging.message import Message
    from dujiang.messaging.work import Worked
    from dujiang.react import Reaction
    from dujiang.settings import Settings

logger = logging.getLogger("dujiang.app.runtime")

POOLS = ("pool_size", "reader_pool_size")


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A declared law that does not hold.

    Attributes:
        invariant: What it says.
        name: Its stored name.
        rows: The violating rows, at most 100, as JSON values.
    """

    invariant: str
    name: str
    rows: list[Any]


@dataclass(frozen=True, kw_only=True)
class RouteRow:
    """One route, for `dujiang routes`.

    Attributes:
        method: GET, POST, ...
        path: Its path.
        kind: `write`, `read` or `react`.
        name: The stored name.
        handler: File, line and function.
    """

    method: str
    path: str
    kind: str
    name: str
    handler: str


@dataclass(eq=False, kw_only=True)
class NotDurable(DujiangError):
    """The database acknowledges writes before they are safe, and the profile is `production`."""

    code = "not_durable"
    move = "fix"
    says = "{url} is not fit for the profile production: {means}"
    cure = "switch the database's setting on, or set `profile` to demo where losing data is no loss"

    url: str
    means: str


class Runtime:
    """One running copy.

    Args:
        app: What runs.
        settings: Where and how.
        node: Time, chance and tasks; default: the machine's.
    """

    def __init__(self, app: App, settings: Settings, node: Node | None = None) -> None:
        self.app = app
        self.settings = settings
        self.node = node or Node.system(settings.instance or None)
        self.metrics = Metrics()
        self.counting = Counting(self.metrics)
        self.health = Health(self.node.clock)
        self.database: Database = load("database", settings.database)(sized(settings), self.node)
        self.broker: Broker = load("broker", settings.broker)(settings.broker, self.node, self.database)
        self.schema = Schema(self.database, app.modules)
        self.bells = Bells(self.database, self.node.tasks)
        self.gauge = OutboxGauge(settings.outbox_limit)
        self.idempotency = Idempotency(self.node, self.database, keep_us=int(settings.idempotency_ttl_s * 1e6))
        self.process = ProcessLease(
            self.node, self.database, settings.instance, release_lease, self._lease_lost, orphaned_leases
        )
        self.relay = Relay(self.node, self.database, self.broker, self.bells, self.process, self._passed)
        self.cleaner = Cleaner(self.node, self.database, outbox_keep_us=int(settings.outbox_retention_s * 1e6))
        self.deadletters = DeadLetters(self.database, self.node.clock.now_us, self.bells.ring_all)
        self.body_limit = settings.body_limit_bytes
        self.consumers: list[Consumer] = []
        self._bound: dict[Any, Any] = {}
        self._services: Services | None = None
        self.composition = Composition(app)
        self._bind()
        operations = Operations(self, settings.data / "operator.token")
        limits = Limits(body_bytes=self.body_limit)
        self.asgi = Guard(operations, self.node, limits=limits, allowed_hosts=settings.allowed_hosts)

    def __repr__(self) -> str:
        return f"<Runtime {self.node.name} of {self.app!r}>"

    @property
    def ids(self) -> IdMaker:
        """Makes this copy's ids."""
        return self.process.ids

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every part in order. Raises the first error, with nothing left running."""
        self._services = Services(
            [
                ("database", self.database),
                ("schema", Step(self._prepare)),
                ("process", self.process),
                ("seed", Step(self._seed)),
                ("broker", self.broker),
                ("relay", self.relay),
                ("consumers", Step(self._start_consumers, self._stop_consumers)),
                ("upkeep", Upkeep(self)),
                ("watch", LoopWatch(self.node, self.metrics.histogram("dujiang_loop_lag_seconds"))),
                ("ready", Step(self._ready, self._leave)),
            ]
        )
        recheck()
        self.database.listen(self.bells.hear)
        await self._services.start()

    async def stop(self) -> None:
        """Stop every part in reverse order; may be called twice."""
        if self._services is not None:
            await self._services.stop()
        await self.node.tasks.close()

    async def _prepare(self) -> None:
        if self.settings.profile == "production":
            await self._refuse_unsafe()
        await self.schema.prepare()
        await self.cleaner.prepare()

    async def _refuse_unsafe(self) -> None:
        found = await self.database.durability()
        if found["safe"] != "yes":
            raise NotDurable(url=self.database.url, means=found["means"])

    async def _seed(self) -> None:
        if self.schema.was_empty:
            demo = self.settings.profile == "demo"
            await self.transact(lambda tx: self.schema.seed(tx, demo=demo), what="seed")

    async def _start_consumers(self) -> None:
        reactions: list[Reaction[Any, Any]] = [verb for verb in self.app.verbs() if verb.kind == "react"]  # type: ignore[misc]
        subscriptions = [verb.subscription(self.composition.provided(verb)) for verb in reactions]
        numbers = await activate(self.database, subscriptions, self.app.renamed, self.node.clock.now_us())
        context = Context(self.node, self)
        for subscription in subscriptions:
            consumer = Consumer(
                context=context,
                subscription=subscription,
                sub_id=numbers[subscription.name],
                database=self.database,
                broker=self.broker,
                bells=self.bells,
                process=self.process,
                make_tx=self.make_tx,
                worked=self._worked,
            )
            self.consumers.append(consumer)
            await consumer.start()

    async def _stop_consumers(self) -> None:
        consumers, self.consumers = self.consumers, []
        for consumer in consumers:
            await consumer.stop(self.settings.grace_s)

    async def _ready(self) -> None:
        self.health.add("database", self.database.health)
        self.health.state = "ready"

    async def _leave(self) -> None:
        self.health.state = "stopping"

    def _lease_lost(self) -> None:
        for consumer in self.consumers:
            consumer.cancel_running()

    # Verbs ------------------------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        for verb in self.app.verbs():
            provided = self.composition.provided(verb)
            if isinstance(verb, Write):
                self._bound[verb] = BoundWrite(
                    verb,
                    provided=provided,
                    body_name=self.composition.body_name(verb),
                    answer_type=self.composition.answer_type(verb),
                    node=self.node,
                    database=self.database,
                    idempotency=self.idempotency,
                    make_tx=self.make_tx,
                )
            elif isinstance(verb, ReadVerb):
                answer_type = self.composition.answer_type(verb)
                self._bound[verb] = BoundRead(verb, provided=provided, answer_type=answer_type, database=self.database)

    def bound(self, verb: Any) -> Any:
        """A verb inside this copy."""
        return self._bound[verb]

    def make_tx(self, connection: Connection, now_us: int, cause: Message | None = None) -> Tx:
        """A transaction object of this copy."""
        return Tx(connection, self.database, now_us, gauge=self.gauge, wake=self._wake_relay, cause=cause)

    def _wake_relay(self) -> None:
        if self.relay.owns:
            self.bells.ring("outbox")
        else:
            self.bells.ring_far("outbox")

    async def transact(self, body: Callable[[Tx], Awaitable[Any]], *, what: str = "transaction") -> Any:
        """Run `body` in a transaction of its own, outside any verb."""
        with entered(self.context()):
            return await transact(self.database, self.make_tx, body, what=what)

    async def read(self, body: Callable[[Read], Awaitable[Any]]) -> Any:
        """Run `body` in a read-only session, outside any verb."""
        context = self.context()
        with entered(context):
            return await self.database.read(lambda connection: body(Read(connection, self.database, context)))

    async def run(self, verb: Any, args: Sequence[Any], values: Mapping[str, Any], key: str | None = None) -> Any:
        """Run a write or read; returns what its function returns (see `App.run`)."""
        if verb not in self._bound:
            raise TypeError(f"{verb!r} is not a write or read of {self.app!r}")
        names = [name for name in verb.handler.parameters if name not in self.composition.provided(verb)]
        if len(args) > len(names):
            raise TypeError(f"{verb.name} takes {len(names)} parameters after the first, and {len(args)} were given")
        given = {**dict(zip(names, args, strict=False)), **values}
        body_name = self.composition.body_name(verb)
        beside = {name: value for name, value in sorted(given.items()) if name != body_name}
        call = Call(given, key, verb.name, to_json(beside, fallback=repr).decode())
        bound = self.bound(verb)
        with entered(current_or_none() or self.context()):
            if isinstance(bound, BoundRead):
                return await bound.value(call.values)
            return await bound.value(call)

    def held(self) -> AbstractAsyncContextManager[Tx]:
        """A transaction that stays open for a block of foreign code; see attach.py."""
        from dujiang.app.attach import held  # noqa: PLC0415

        return held(self)

    # Requests ---------------------------------------------------------------------------------------------------------

    def context(self) -> Context:
        """A context of this copy without a deadline."""
        return Context(self.node, self)

    def request_context(self, trace_id: str, span_id: str, timeout_ms: int | None) -> Context:
        """The context of a new request: its deadline and its trace."""
        limit_s = self.settings.request_timeout_s
        if timeout_ms is not None:
            limit_s = min(limit_s, timeout_ms / 1000)
        deadline = self.node.clock.monotonic() + limit_s
        trace_id = trace_id or f"{self.node.entropy.bits(128):032x}"
        return Context(self.node, self, deadline, trace_id, span_id, limited=True)

    def observe(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count a request."""
        self.counting.request(route, method, status, took_s)

    def _worked(self, worked: Worked) -> None:
        self.counting.worked(worked)

    def _passed(self, batch: list[Message]) -> None:
        self.counting.relayed(len(batch))

    # Operations -------------------------------------------------------------------------------------------------------

    def routes(self) -> list[RouteRow]:
        """Every route and reaction of the app."""
        return [RouteRow(**row) for row in self.composition.rows()]

    async def audit(self) -> list[Violation]:
        """Check every declared law; the ones that do not hold."""
        found = []
        for invariant in self.app.invariants():
            rows = await self.read(invariant.check)
            if rows:
                shown = [dict(row._mapping) if hasattr(row, "_mapping") else row for row in rows[:100]]  # noqa: SLF001
                found.append(Violation(invariant=invariant.says, name=invariant.name, rows=shown))
        return found


def sized(settings: Settings) -> str:
    """The URL of the database with the setting `pool_size`, unless the URL says it or its adapter has no pools."""
    url = settings.database
    row = adapter("database", url.partition(":")[0])
    said = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    wanted = [name for name in POOLS if row is not None and name in row.options and name not in said]
    query = "&".join(f"{name}={settings.pool_size}" for name in wanted)
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


class Step:
    """A service made of one or two functions."""

    def __init__(self, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]] | None = None) -> None:
        self._start = start
        self._stop = stop

    async def start(self) -> None:
        """Run the first function."""
        await self._start()

    async def stop(self) -> None:
        """Run the second one, if there is one."""
        if self._stop is not None:
            await self._stop()
