"""Reading: keeps the limits of a body while the application reads it.

A refusal while the body is read cannot simply be raised: frameworks turn an exception of `receive` into an answer of
their own (FastAPI into a bare 400). So it is remembered, what the application sends after it is held back, and the
guard answers.

The clock starts only when a read has to wait, because nearly every small body is already there. Arming a timer costs
more than all checks of the head together, so `begun` runs a read up to its first wait, and only then a timer is armed. The
guard begins the first read itself: a body that is there whole goes on as a `WholeBody`, and nothing is watched or held back.
Rejected: `asyncio.timeout` around every read (3 us for nothing), and a sweeper that looks at all open reads each second
(a task to own, and a second too late).

A body may take `body_s` in all, and `body_grace_s` plus the time that its bytes so far need at `body_bytes_per_s`: a
client that sends one byte a second is cut off after the grace, a slow honest one after `body_s`.
tests/unit/gateway/test_guard.py holds it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dujiang.gateway.body import BodyTooLarge
from dujiang.gateway.refusals import BodyTooSlow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, MutableMapping

    from dujiang.gateway.guard import Limits
    from dujiang.gateway.problems import RequestRefused
    from dujiang.kernel.clock import Clock

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


class WholeBody:
    """A `receive` whose body is there already; who knows this class may take the bytes without a call.

    Args:
        message: The server's one message of the body.
        receive: The server's; after the body only the client's disconnect can come.

    Attributes:
        body: The whole body.
    """

    __slots__ = ("_message", "_receive", "body")

    def __init__(self, message: Message, receive: Receive) -> None:
        self.body: bytes = message.get("body", b"")
        self._message: Message | None = message
        self._receive = receive

    async def __call__(self) -> Message:
        """The body, then whatever the server says."""
        message, self._message = self._message, None
        return message if message is not None else await self._receive()


class GuardedBody:
    """One body while it is read.

    Args:
        limits: Its times and rate, and the size up to which nobody need be asked.
        clock: Measures how long it takes.
        limit: Gives the size that its address takes; asked only for a body of several messages or above `limits`.
        receive: The server's.
        send: The server's.
        first: What the first read gave, or where it waits, if it has begun.

    Attributes:
        refusal: Why reading ended, or None.
        started: Whether the application's own answer is on its way.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_complete",
        "_first",
        "_limit",
        "_limits",
        "_receive",
        "_send",
        "_size",
        "refusal",
        "started",
    )

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        limit: Callable[[], int],
        receive: Receive,
        send: Send,
        first: Step | Message | None = None,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._limit = limit
        self._receive = receive
        self._send = send
        self._first = first
        self._began: float | None = None
        self._size = 0
        self._complete = False
        self.refusal: RequestRefused | None = None
        self.started = False

    async def receive(self) -> Message:
        """The next message of the server. Raises BodyTooLarge or BodyTooSlow."""
        if self.refusal is not None:
            raise self.refusal
        if self._complete:
            # Nothing but the client's disconnect can follow, and that may take as long as it likes.
            return await self._receive()
        read, self._first = self._first or begun(self._receive()), None
        message = await self._in_time(read) if isinstance(read, Step) else read
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._size > self._limits.body_bytes or not self._complete:
                self._check_size()
        return message

    async def send(self, message: Message) -> None:
        """Pass the application's answer on, unless the guard has an answer of its own."""
        if self.refusal is not None and not self.started:
            return
        self.started = True
        await self._send(message)

    def close(self) -> None:
        """Give up a first read that nobody took."""
        if isinstance(self._first, Step):
            self._first.close()

    def _check_size(self) -> None:
        limit = self._limit()
        if self._size > limit:
            self.refusal = BodyTooLarge(limit_bytes=limit)
            raise self.refusal

    async def _in_time(self, step: Step) -> Message:
        limits = self._limits
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
        allowed_s = min(limits.body_s, limits.body_grace_s + self._size / limits.body_bytes_per_s)
        timer = asyncio.timeout(self._began + allowed_s - now)
        try:
            async with timer:
                return await step
        except TimeoutError:
            if not timer.expired():
                raise  # the server's own, not ours
            self.refusal = BodyTooSlow(received_bytes=self._size, after_s=allowed_s)
            raise self.refusal from None


def begun(read: Awaitable[Message]) -> Step | Message:
    """What a read gives without waiting, or the read at its first wait."""
    rest = read.__await__()
    try:
        wait = next(rest)
    except StopIteration as end:
        message: Message = end.value
        return message
    return Step(rest, wait)


class Step:
    """A read that waits; awaiting it goes on from there.

    Args:
        rest: The read.
        wait: What it waits for.
    """

    __slots__ = ("_rest", "_wait")

    def __init__(self, rest: Generator[Any, Any, Message], wait: Any) -> None:
        self._rest = rest
        self._wait = wait

    def close(self) -> None:
        """End a read that still waits."""
        self._rest.close()

    def __await__(self) -> Generator[Any, Any, Message]:
        """Hand the first wait to the event loop, then whatever follows; a cancellation belongs to the read."""
        rest = self._rest
        wait = self._wait
        try:
            while True:
                try:
                    yield wait
                except BaseException as thrown:  # noqa: BLE001
                    wait = rest.throw(thrown)
                else:
                    wait = next(rest)
        except StopIteration as end:
            message: Message = end.value
            return message
