"""Write: verb 1, a synchronous write.

    key given? ──► the same key in this process is waited for (no connection) or replayed
    begin
      claim the key, or replay the stored answer
      the handler: domain code
      the answer's bytes are made
      events, stored answer ──► the closing statement
    commit once
    answer

A refusal rolls back and is stored by a second, small transaction. In the batched form (`batch=64`, lists in the
signature) calls that wait at the same moment share one transaction, one claim, one closing statement and one commit; a
member's refusal is its own, and if the transaction fails the members run again one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from pydantic_core import to_json

from dujiang.data.database import OutcomeUnknown
from dujiang.data.transaction import refuse_nested, transact
from dujiang.gateway.idempotency import Idempotency, Key, Lost, Replay
from dujiang.gateway.problems import JSON_HEADERS, Answer, problem
from dujiang.kernel.bounded import BoundedQueue
from dujiang.kernel.codec import Codec
from dujiang.kernel.context import Context, current, entered
from dujiang.kernel.errors import DeadlinePassed, Refusal
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from dujiang.data.database import Connection, Database, Isolation
    from dujiang.gateway.handler import Handler
    from dujiang.gateway.routes import Call
    from dujiang.kernel.node import Node
    from dujiang.messaging.message import Message
    from dujiang.messaging.tx import Tx

# Calls of a batched write that may wait; more are refused with 503.
LINE_MAX = 10_000

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class Write(Generic[P, T]):
    """A declared write. Calling it calls the function, for use inside an open transaction.

    Attributes:
        function: The function.
        handler: Its signature.
        name: The stored operation name, `module.function`.
        route: "POST /path", or None for an operation.
        status: The status of a success.
        key_required: Whether a request needs an Idempotency-Key.
        isolation: Of its transaction.
        batch: Calls at most in one transaction; 0 = not batched.
        aliases: Further routes to the same operation.
        options: FastAPI's route options.
    """

    function: Callable[P, Coroutine[Any, Any, T]]
    handler: Handler
    name: str
    route: str | None
    status: int
    key_required: bool = False
    isolation: Isolation = "read_committed"
    batch: int = 0
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kind = "write"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run the function in the caller's transaction."""
        return self.function(*args, **kwargs)


class StoredRefusal(Refusal):
    """A refusal that was stored under the idempotency key and is given again."""

    code = "refused_before"


class BoundWrite:
    """A write inside one running copy.

    Args:
        verb: The declaration.
        provided: What the app injects, by parameter.
        body_name: The parameter whose value is the body; names the batch's list in the batched form.
        node: The running copy.
        database: Where.
        idempotency: Keys.
        make_tx: Makes the transaction object.
    """

    def __init__(
        self,
        verb: Write[Any, Any],
        *,
        provided: Mapping[str, Any],
        body_name: str | None,
        answer_type: Any,
        node: Node,
        database: Database,
        idempotency: Idempotency,
        make_tx: Callable[[Connection, int, Message | None], Tx],
    ) -> None:
        self.verb = verb
        self._provided = dict(provided)
        self._body_name = body_name
        self._node = node
        self._database = database
        self._idempotency = idempotency
        self._make_tx = lambda connection, now_us: make_tx(connection, now_us, None)
        self._codec: Codec[Any] = Codec(answer_type)
        self._line: BoundedQueue[tuple[Any, Key | None, asyncio.Future[Answer]]] = BoundedQueue(
            f"the line for {verb.name}", LINE_MAX
        )
        self._flushing = 0

    async def respond(self, call: Call) -> Answer:
        """Run the write and make its answer. Raises what the handler raises, refusals included."""
        if call.key is None:
            return await self._run(call, None)
        key = self._key(call)
        return await self._idempotency.once(key, lambda: self._keyed(call, key))

    async def value(self, call: Call) -> Any:
        """Run the write and return what its function returned; a replay returns the stored answer."""
        answer = await self.respond(call)
        if answer.status >= 400:
            stored = json.loads(answer.body)
            raise StoredRefusal(stored["detail"], code=stored["code"])
        return None if not answer.body else self._codec.adapter.validate_json(answer.body)

    def _key(self, call: Call) -> Key:
        context = current()
        digest = hashlib.sha256(call.parts.encode())
        if self._body_name is not None and self._body_name in call.values:
            digest.update(b"\x00" + to_json(call.values[self._body_name]))
        scope = f"{context.tenant}\x1f{context.caller}\x1f{self.verb.name}"
        return Key(scope, call.key or "", digest.digest(), self.verb.name)

    async def _keyed(self, call: Call, key: Key) -> Answer:
        """Run under a key; a refusal is stored, and what is stored under the key stands."""
        try:
            return await self._run(call, key)
        except Refusal as refusal:
            answer = await self._idempotency.store_refusal(key, problem(refusal))
            raise Replay(answer) from None

    async def _run(self, call: Call, key: Key | None) -> Answer:
        context = current()
        refuse_nested(context, self.verb.name)
        limit_s = context.remaining_s()
        limit = context.node.limits.within(limit_s)
        try:
            with limit:
                if self.verb.batch:
                    return await self._join(call, key)
                return await self._alone(call, key)
        except TimeoutError:
            if not limit.expired:
                raise  # The handler's own.
            raise DeadlinePassed(what=self.verb.name, limit_s=limit_s or 0.0) from None

    def answer(self, value: Any) -> Answer:
        """The answer of a returned value: the bytes that are stored and sent."""
        if value is None:
            return Answer(204 if self.verb.status in (200, 201) else self.verb.status, [], b"")
        return Answer(self.verb.status, list(JSON_HEADERS), self._codec.encode(value))

    # One call, one transaction ----------------------------------------------------------------------------------------

    async def _alone(self, call: Call, key: Key | None) -> Answer:
        made: list[Answer] = []

        async def body(tx: Tx) -> Answer:
            if key is not None:
                with span("gateway.idempotency"):
                    await self._idempotency.claim(tx, key)
            with span("handler", operation=self.verb.name):
                value = await self.verb.function(tx, **call.values, **self._provided)
            answer = self.answer(value)
            if key is not None:
                made.append(answer)
                for piece in self._idempotency.store_pieces(tx, [key], [answer]):
                    tx.close_with(piece)
            return answer

        with span("write", operation=self.verb.name):
            return await transact(
                self._database,
                self._make_tx,
                body,
                what=self.verb.name,
                isolation=self.verb.isolation,
                settle=self._idempotency.settle(key, made) if key is not None else None,
            )

    # Many calls, one transaction --------------------------------------------------------------------------------------

    async def _join(self, call: Call, key: Key | None) -> Answer:
        landed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._line.put_nowait((call.values[self._body_name or ""], key, landed))
        if self._flushing < 2:
            self._flushing += 1
            # The batch belongs to no single caller: it has no caller's deadline, trace or name.
            with entered(Context(self._node, current().runtime, tenant=current().tenant)):
                self._node.tasks.spawn(self._flush(), name=f"batch {self.verb.name}")
        return await landed

    async def _flush(self) -> None:
        try:
            while self._line:
                members = [member for member in self._line.take_nowait(self.verb.batch) if not member[2].done()]
                if not members:
                    continue
                if await self._together(members) and len(members) > 1:
                    for member in members:
                        await self._together([member])
        finally:
            self._flushing -= 1

    async def _together(self, members: list[tuple[Any, Key | None, asyncio.Future[Answer]]]) -> bool:
        """Run members in one transaction and settle their futures; True when they must run one by one."""
        outcomes: dict[int, Answer | Exception] = {}

        async def body(tx: Tx) -> None:
            outcomes.clear()
            keyed = [(place, key) for place, (_, key, _) in enumerate(members) if key is not None]
            claims = await self._idempotency.claim_many(tx, [key for _, key in keyed]) if keyed else []
            for (place, _), claim in zip(keyed, claims, strict=True):
                if claim is not None:
                    outcomes[place] = claim
            todo = [place for place in range(len(members)) if place not in outcomes]
            if not todo:
                return
            bodies = [members[place][0] for place in todo]
            values = await self.verb.function(tx, **{self._body_name or "": bodies}, **self._provided)
            if len(values) != len(bodies):
                raise ValueError(f"{self.verb.name} got {len(bodies)} bodies and answered {len(values)}")
            store: list[tuple[Key, Answer]] = []
            for place, value in zip(todo, values, strict=True):
                key = members[place][1]
                answer = problem(value) if isinstance(value, Refusal) else self.answer(value)
                outcomes[place] = value if isinstance(value, Refusal) and key is None else answer
                if key is not None:
                    store.append((key, answer))
            if store:
                for piece in self._idempotency.store_pieces(tx, [k for k, _ in store], [a for _, a in store]):
                    tx.close_with(piece)

        try:
            await transact(self._database, self._make_tx, body, what=self.verb.name, isolation=self.verb.isolation)
        except OutcomeUnknown as error:
            # It may have happened: running the members again could do it twice.
            outcomes.update(dict.fromkeys(range(len(members)), error))
        except Exception as error:  # noqa: BLE001  (a batch of one hands its error to its caller)
            if len(members) > 1:
                return True
            outcomes[0] = error
        for place, (_, _, landed) in enumerate(members):
            if landed.done():
                continue
            outcome = outcomes[place]
            if isinstance(outcome, Answer):
                landed.set_result(outcome)
            else:
                landed.set_exception(outcome)
        return False


__all__ = ["BoundWrite", "Lost", "Write"]
