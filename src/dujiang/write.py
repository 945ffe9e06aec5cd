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

A write is AP: its events lie in the outbox, so it is accepted while the broker is away. One that `requires=("broker",)` is
CP: before anything else the broker must have confirmed a message within the last second, else it is refused with 503.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, get_origin

from starlette.responses import Response

from dujiang.data.database import OutcomeUnknown
from dujiang.data.transaction import refuse_nested, transact
from dujiang.gateway.handler import inspected, method_of, options_of, refuse_promises, where_of
from dujiang.gateway.idempotency import NO_BODY, Idempotency, Key, Lost, Replay, fingerprint_of
from dujiang.gateway.problems import JSON_HEADERS, PROBLEM_TYPE, Answer, problem
from dujiang.gateway.response import answer_of_response, fresh, value_of_answer, with_response
from dujiang.kernel.bounded import BoundedQueue
from dujiang.kernel.codec import Codec
from dujiang.kernel.context import Context, current, entered
from dujiang.kernel.errors import DeadlinePassed, Declared, Refusal
from dujiang.kernel.tasks import Stopping
from dujiang.messaging.tx import Tx
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from dujiang.data.database import Connection, Database, Isolation
    from dujiang.gateway.handler import Handler
    from dujiang.gateway.routes import Call
    from dujiang.kernel.node import Node
    from dujiang.messaging.message import Message

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
        requires: What must be there, beside the database, for it to be accepted.
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
    requires: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kind = "write"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run the function in the caller's transaction."""
        return self.function(*args, **self.handler.completed(args[1:], kwargs))


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
        requires: Each raises while something that the write requires is away.
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
        requires: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self.verb = verb
        self._requires = tuple(requires)
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
        for there in self._requires:
            await there()
        if call.key is None:
            return await self._run(call, None)
        key = self._key(call)
        return await self._idempotency.once(key, lambda: self._keyed(call, key))

    async def value(self, call: Call) -> Any:
        """Run the write and return what its function returned; a replay returns the stored answer."""
        answer = await self.respond(call)
        if answer.headers and answer.headers[0] == PROBLEM_TYPE:
            stored = json.loads(answer.body)
            raise StoredRefusal(stored["detail"], code=stored["code"])
        if (b"content-type", b"application/json") not in answer.headers:
            return value_of_answer(answer)
        return self._codec.adapter.validate_json(answer.body)

    def _key(self, call: Call) -> Key:
        context = current()
        body = NO_BODY if self._body_name is None else call.values.get(self._body_name, NO_BODY)
        scope = f"{context.tenant}\x1f{context.caller}\x1f{self.verb.name}"
        return Key(scope, call.key or "", fingerprint_of(call.parts, body), self.verb.name)

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
        limit = context.node.limits.until(context.deadline)
        try:
            with limit:
                if self.verb.batch:
                    return await self._join(call, key)
                return await self._alone(call, key)
        except TimeoutError:
            if not limit.expired:
                raise  # The handler's own.
            raise DeadlinePassed(what=self.verb.name, limit_s=max(0.0, limit.seconds or 0.0)) from None

    def answer(self, value: Any, response: Response | None = None) -> Answer:
        """The answer of a returned value: the bytes that are stored and sent. Raises a refusal that was returned.

        Args:
            value: What the handler returned.
            response: What it set beside that, if it asked for a Response.
        """
        if value is None:
            answer = Answer(204 if self.verb.status in (200, 201) else self.verb.status, [], b"")
        elif isinstance(value, Refusal):
            raise value
        elif isinstance(value, Response):
            answer = answer_of_response(value)
        else:
            answer = Answer(self.verb.status, list(JSON_HEADERS), self._codec.encode(value))
        return answer if response is None else with_response(answer, response)

    # One call, one transaction ----------------------------------------------------------------------------------------

    async def _alone(self, call: Call, key: Key | None) -> Answer:
        made: list[Answer] = []
        responses = self.verb.handler.responses

        async def body(tx: Tx) -> Answer:
            if key is not None:
                with span("gateway.idempotency"):
                    await self._idempotency.claim(tx, key)
            response = fresh() if responses else None
            with span("handler", operation=self.verb.name):
                value = await self.verb.function(
                    tx, **call.values, **self._provided, **dict.fromkeys(responses, response)
                )
            answer = self.answer(value, response)
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
        if self._node.tasks.closed:  # Before it stands in the line: a batch under way would still take it.
            raise Stopping(owner=self.verb.name, task="calls")
        landed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._line.put_nowait((call.values[self._body_name or ""], key, landed))
        if self._flushing < self._lanes():
            self._flushing += 1
            # The batch belongs to no single caller: it has no caller's deadline, trace or name.
            with entered(Context(self._node, current().runtime, tenant=current().tenant)):
                self._node.tasks.spawn(self._flush(), name=f"batch {self.verb.name}")
        return await landed

    def _lanes(self) -> int:
        """How many transactions may be under way at once, by who waits.

        While one commits, the next members gather. A second one beside it must be worth its round trips: opened for
        whoever comes, it takes those who would have filled the next (64 callers: 21 in a transaction instead of 32).
        """
        return 2 if len(self._line) * 2 >= self.verb.batch else min(1, len(self._line))

    async def _flush(self) -> None:
        try:
            while self._flushing <= self._lanes():
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


def declared(
    function: Callable[P, Coroutine[Any, Any, T]],
    *,
    name: str,
    route: str | None,
    idempotency: str,
    isolation: Isolation,
    batch: int,
    requires: Sequence[str],
    status: int | None,
    aliases: Sequence[str],
    options: dict[str, Any],
) -> Write[P, T]:
    """The declaration of a function as a write. Raises Declared."""
    handler = inspected(function, worlds=(Tx,))
    method = method_of(route, function, write=True)
    for alias in aliases:
        method_of(alias, function, write=True)
    refuse_promises(function, idempotency, requires)
    if batch and get_origin(handler.answer) is not list:
        raise Declared(where=where_of(function), what="batch without lists", how="return list[View | Refusal]")
    return Write(
        function=function,
        handler=handler,
        name=name,
        route=route,
        status=status or (201 if method == "POST" else 200),
        key_required=idempotency == "required",
        isolation=isolation,
        batch=batch,
        requires=tuple(requires),
        aliases=tuple(aliases),
        options=options_of(options, function),
    )


__all__ = ["BoundWrite", "Lost", "Write", "declared"]
