"""Runtime: one running copy of an app; any number of them live in one process.

    start   database ─► its clock ─► schema ─► partitions ─► process lease ─► seed ─► cache ─► broker ─► relay ─► workers ─► upkeep
    drain   not ready; relay and workers claim nothing more, let what runs end, give the rest back; requests are answered
    stop    the rest of it, backwards: end the lease, close

Which of these parts a copy has follows from its roles (roles.py). The grace is counted once, from the first of drain and
stop. A failed start stops what had started. Nothing here is global: the drill runs a cluster of copies of one app, each with a
node of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import to_json

from dujiang.app.binding import bound_verbs
from dujiang.app.composition import composed
from dujiang.app.counting import Counting
from dujiang.app.laws import Laws, Violation
from dujiang.app.parts import Step, levels, made, product, sized
from dujiang.app.roles import ROLES, Roles
from dujiang.app.schema import Schema
from dujiang.app.upkeep import Upkeep, given_up
from dujiang.app.workers import Workers
from dujiang.backends.table import load_keeper
from dujiang.caching.caching import Caching
from dujiang.console.operations import Operations
from dujiang.data.backup import Backups
from dujiang.data.clock import StoreClock
from dujiang.data.process import ProcessLease
from dujiang.data.transaction import transact
from dujiang.gateway.guard import Guard, Limits
from dujiang.gateway.idempotency import Idempotency
from dujiang.gateway.routes import Call
from dujiang.jobs.operations import JobOperations
from dujiang.jobs.running import Jobs
from dujiang.jobs.scheduler import Scheduler
from dujiang.jobs.schedules import BELL as SCHEDULES_BELL
from dujiang.jobs.schedules import Schedules
from dujiang.kernel.context import Context, current_or_none, entered
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.node import Node
from dujiang.kernel.service import Services
from dujiang.kernel.tasks import outcomes_of
from dujiang.messaging.bell import Bells
from dujiang.messaging.carried import CarriedBroker
from dujiang.messaging.contracts import check_stored
from dujiang.messaging.crashes import Accounts
from dujiang.messaging.deadletter import DeadLetters
from dujiang.messaging.marks import Marks
from dujiang.messaging.partitions import Cleaner
from dujiang.messaging.reconcile import Reconciler
from dujiang.messaging.relay import Relay
from dujiang.messaging.tx import OutboxGauge, Read, Tx
from dujiang.messaging.work import orphaned_leases, release_lease
from dujiang.read import BoundRead
from dujiang.saga.operations import Sagas
from dujiang.saga.stranded import check_sagas
from dujiang.telemetry.health import Health
from dujiang.telemetry.metrics import Metrics
from dujiang.telemetry.tracing import new_trace_id, recheck
from dujiang.telemetry.watch import LoopWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from dujiang.app.declaration import App
    from dujiang.data.database import Connection, Database
    from dujiang.kernel.ids import IdMaker
    from dujiang.locking.port import LockStore
    from dujiang.messaging.broker import Broker
    from dujiang.messaging.consumer import Consumer
    from dujiang.messaging.message import Message
    from dujiang.settings import Settings

logger = logging.getLogger("dujiang.app.runtime")


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
        roles: What this copy does; see roles.py.
    """

    _drained_by: float | None = None
    _services: Services | None = None

    def __init__(
        self, app: App, settings: Settings, node: Node | None = None, *, roles: Collection[str] = ROLES
    ) -> None:
        self.app = app
        self.settings = settings
        self.roles = Roles(roles)
        self.workers = Workers(self)
        given = node or Node.system(settings.instance or None)
        # One clock for everybody on the store: whatever asks this copy for the time gets the store's.
        self.clock = StoreClock(given.clock)
        self.node = replace(given, clock=self.clock)
        self.metrics = Metrics()
        self.counting = Counting(self.metrics)
        self.observe = self.counting.request
        self.health = Health(self.node.clock)
        self.database: Database = made("database", sized(settings), self.node)
        self.broker: Broker = made("broker", settings.broker, self.node, self.database)
        first, shared = levels(settings, self.node, self.database)
        self.caching = Caching(self.node, self.database, first, self.metrics, shared)
        self.locks: LockStore = made("lock", "database:", self.node, self.database)
        self.schema = Schema(self.database, app.modules)
        self.bells = Bells(self.database, self.node.tasks)
        self.gauge = OutboxGauge(settings.outbox_limit)
        self.idempotency = Idempotency(self.node, self.database, keep_us=int(settings.idempotency_ttl_s * 1e6))
        self.marks = Marks(settings.data, self.node.name, kept=self.node.simulation is None)
        self.process = ProcessLease(
            self.node,
            self.database,
            settings.instance,
            release_lease,
            self.workers.cancel_running,
            orphaned=orphaned_leases,
            reclaim=Accounts(self.marks).reclaim,
            clock=self.clock,
        )
        self.relay = Relay(self.node, self.database, self.broker, self.bells, self.process, self.counting.passed)
        self.reconciler: Reconciler | None = None
        if isinstance(self.broker, CarriedBroker):
            self.reconciler = Reconciler(self.node, self.database, self.broker, lambda: self.relay.owns)
        self.cleaner = Cleaner(self.node, self.database, outbox_keep_us=int(settings.outbox_retention_s * 1e6))
        self.deadletters = DeadLetters(self.database, self.node.clock.now_us, self.bells.ring_all, given_up)
        self.jobs = Jobs(self.node, self.database, self.bells, self.transact)
        self.schedules = Schedules(self.database, self.node.clock.now_us, partial(self.bells.ring_far, SCHEDULES_BELL))
        self.job_operations = JobOperations(self.database, self.transact, self.clock.now_us, self.deadletters)
        self.backups = Backups(self.node, lambda: load_keeper(settings.database)(settings.database), product())
        self.body_limit = settings.body_limit_bytes
        self.composition = composed(app)
        self.sagas = Sagas(self.database, self.transact, self.composition.sagas(), self.bells.ring_all)
        declared, fired = self.composition.schedules(), self.counting.fired
        self.scheduler = Scheduler(self.node, self.database, self.bells, self.transact, declared, fired)
        self.laws = Laws(self)
        self._bound = bound_verbs(self)
        self.asgi = self._guarded()

    def __repr__(self) -> str:
        return f"<Runtime {self.node.name} of {self.app!r}>"

    def _guarded(self) -> Any:
        """The ASGI application: routes and operations behind the guard."""
        operations = Operations(self, self.settings.data / "operator.token")
        return Guard(
            operations,
            self.node,
            limits=Limits(body_bytes=self.body_limit),
            allowed_hosts=self.settings.allowed_hosts,
            allow=operations.allow,
            paths=self.composition.table.fixed,
        ).serve

    @property
    def consumers(self) -> list[Consumer]:
        """The running consumers."""
        return self.workers.consumers

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

    @property
    def needs_broker(self) -> bool:
        """Whether this copy speaks to the broker: it moves or handles events, or a write that it answers requires it."""
        writes = [verb for verb in self.app.verbs() if verb.kind in self.roles.verbs]
        return self.roles.woken or any("broker" in getattr(verb, "requires", ()) for verb in writes)

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every part in order. Raises the first error, with nothing left running."""
        parts: list[tuple[str, Any]] = [
            ("database", self.database),
            ("clock", Step(self._follow)),
            ("schema", Step(self._prepare)),
            ("marks", self.marks),
            ("process", self.process),
            ("seed", Step(self._seed)),
        ]
        if "read" in self.roles.verbs:
            parts.append(("caching", self.caching))
        if self.needs_broker:
            parts.append(("broker", self.broker))
        if "relay" in self.roles:
            parts.append(("relay", self.relay))
        if "worker" in self.roles:
            parts.append(("workers", self.workers))
        if "scheduler" in self.roles:
            parts.append(("scheduler", self.scheduler))
        if "relay" in self.roles and self.reconciler is not None:
            parts.append(("reconcile", self.reconciler))
        parts.append(("upkeep", Upkeep(self)))
        if self.node.simulation is None:  # A thread that looks on from outside has no place in a simulation.
            parts.append(("watch", LoopWatch(self.node, self.metrics.histogram("dujiang_loop_lag_seconds"))))
        parts.append(("laws", self.laws))
        parts.append(("backups", self.backups))
        parts.append(("ready", Step(self._ready)))
        self._services = Services(parts)
        recheck()
        if self.roles.woken:
            self.database.listen(self.bells.hear)
        await self._services.start()

    async def drain(self) -> None:
        """Take no more work, and return when none is left here; requests are still answered. May be called twice.

        What runs has the setting `grace` to end; what has not ended by then, or not begun, goes back and is run by others
        at once.
        """
        self.health.state = "stopping"
        if self._drained_by is None:
            self._drained_by = self.node.clock.monotonic() + self.settings.grace_s
        for outcome in await outcomes_of(
            self.scheduler.stop(), self.workers.stop(), self.relay.stop(self.grace_left_s())
        ):
            if isinstance(outcome, Exception):
                logger.warning("not drained cleanly: %s", outcome)

    def grace_left_s(self) -> float:
        """Seconds that what runs has left to end; all of them while nobody has asked it to."""
        if self._drained_by is None:
            return self.settings.grace_s
        return max(0.0, self._drained_by - self.node.clock.monotonic())

    async def stop(self) -> None:
        """Drain, then stop every part in reverse order; may be called twice."""
        if self._services is not None:
            await self.drain()
            await self._services.stop()
        await self.node.tasks.close()

    async def _follow(self) -> None:
        await self.clock.follow(self.database)

    async def _prepare(self) -> None:
        if self.settings.profile == "production":
            await self._refuse_unsafe()
        await self.schema.prepare()
        await self.cleaner.prepare()
        if self.node.simulation is None:  # There the code is the same from the beginning to the end.
            await check_stored(self.database, self.composition.readables(), self.app.renamed)
            await check_sagas(self.database, self.composition.kinds(), self.app.renamed)

    async def _refuse_unsafe(self) -> None:
        found = await self.database.durability()
        if found["safe"] != "yes":
            raise NotDurable(url=self.database.url, means=found["means"])

    async def _seed(self) -> None:
        if self.schema.was_empty or self.composition.jobs() or self.composition.sagas():
            # An event that is published, or a job that is accepted, before the first worker comes must find whom it is for.
            await self.workers.activate()
        if self.schema.was_empty:
            demo = self.settings.profile == "demo"
            await self.transact(lambda tx: self.schema.seed(tx, demo=demo), what="seed")

    async def _ready(self) -> None:
        self.health.add("database", self.database.health)
        if self.needs_broker and self.broker.standing is not None:
            self.counting.watch(self.broker.standing)
            self.health.add("broker", self.broker.standing.prove, vital=False)
            self.health.add("queues", self.broker.standing.room, vital=False)
        if self.caching.second is not None and self.caching.used and "read" in self.roles.verbs:
            self.health.add("cache", self.caching.second.cache.prove, vital=False)
        self.health.state = "ready"

    # Verbs ------------------------------------------------------------------------------------------------------------

    def bound(self, verb: Any) -> Any:
        """A verb inside this copy."""
        return self._bound[verb]

    def make_tx(self, connection: Connection, now_us: int, cause: Message | None = None) -> Tx:
        """A transaction object of this copy."""
        wake, forgot = self._wake_relay, self.caching.forgot
        return Tx(connection, self.database, now_us, gauge=self.gauge, wake=wake, cause=cause, forgot=forgot)

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
        # The app's own objects and the Response are given by the verb, to each run of its handler.
        ours = {*self.composition.provided(verb), *verb.handler.responses}
        names = [name for name in verb.handler.parameters if name not in ours]
        if len(args) > len(names):
            raise TypeError(f"{verb.name} takes {len(names)} parameters after the first, and {len(args)} were given")
        given = {**dict(zip(names, args, strict=False)), **values}
        given = {name: value for name, value in verb.handler.completed((), given).items() if name not in ours}
        body_name = self.composition.body_name(verb)
        beside = {name: value for name, value in sorted(given.items()) if name != body_name}
        call = Call(given, key, verb.name, to_json(beside, fallback=repr).decode())
        bound = self.bound(verb)
        context = current_or_none()
        with entered(context if context is not None and context.runtime is not None else self.context()):
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
        deadline = self.clock.monotonic() + limit_s
        return Context.of_request(self.node, self, deadline, trace_id or new_trace_id(self.node), span_id)

    # Operations -------------------------------------------------------------------------------------------------------

    def routes(self) -> list[RouteRow]:
        """Every route and reaction of the app."""
        return [RouteRow(**row) for row in self.composition.rows()]

    async def audit(self) -> list[Violation]:
        """Check every law, the app's and the platform's; the ones that do not hold."""
        return await self.laws.audit()
