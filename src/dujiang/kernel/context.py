"""Context: who is asking, until when, under which trace; it follows the call, not the thread.

The context is one immutable value in one context variable, so that a task that starts inherits it whole and cannot
change it for others.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from dujiang.kernel.errors import DeadlinePassed, OutsideRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from dujiang.kernel.node import Node


class Context(NamedTuple):
    """What every call knows; immutable, and made for each request, so a tuple: a frozen dataclass costs 2 us.

    Attributes:
        node: The running copy that works.
        runtime: The runtime that owns the node; `object` here, because the kernel does not know it.
        deadline: Monotonic seconds after which nobody waits for the answer; None = no limit.
        limited: Whether whoever set the deadline also put a limit (kernel/deadline.py) around the work; then what lies
            deeper needs no timer of its own.
        trace_id: 32 hexadecimal digits, or empty.
        span_id: 16 hexadecimal digits of the span that caused this call, or empty.
        caller: The principal's name; empty = nobody signed in.
        tenant: The tenant's name; empty = the only one.
        transaction: The open transaction of this call, if any; guards against a second one inside it.
        call: The run of a reaction outside any transaction that this call belongs to (messaging/call.py), if any.
    """

    node: Node
    runtime: Any = None
    deadline: float | None = None
    trace_id: str = ""
    span_id: str = ""
    caller: str = ""
    tenant: str = ""
    transaction: Any = None
    limited: bool = False
    call: Any = None

    def but(self, **fields: Any) -> Context:
        """This context with some fields replaced."""
        return self._replace(**fields)

    @classmethod
    def of_request(cls, node: Node, runtime: Any, deadline: float, trace_id: str, span_id: str) -> Context:
        """The context of a request that has a limit around it.

        Every request, transaction and read makes a context. A third of what the constructor of a named tuple costs, which
        is itself a Python function, is the tuple.
        """
        return tuple.__new__(cls, (node, runtime, deadline, trace_id, span_id, "", "", None, True, None))

    def inside(self, transaction: Any) -> Context:
        """This context inside a transaction or read."""
        node, runtime, deadline, trace_id, span_id, caller, tenant, _, limited, call = self
        fields = (node, runtime, deadline, trace_id, span_id, caller, tenant, transaction, limited, call)
        return tuple.__new__(Context, fields)

    def remaining_s(self) -> float | None:
        """Seconds left until the deadline, never below 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - self.node.clock.monotonic())

    def check_deadline(self, what: str) -> None:
        """Raise DeadlinePassed if the deadline has passed."""
        if self.deadline is not None and self.node.clock.monotonic() > self.deadline:
            raise DeadlinePassed(what=what, limit_s=0.0)


CURRENT: ContextVar[Context] = ContextVar("dujiang_context")
# Where the application is mounted, as ASGI's `root_path` says; addresses that an answer names begin with it.
ROOT_PATH: ContextVar[str] = ContextVar("dujiang_root_path", default="")


def current() -> Context:
    """The context of this call. Raises OutsideRuntime when there is none."""
    try:
        return CURRENT.get()
    except LookupError:
        raise OutsideRuntime(what="current()") from None


def current_or_none() -> Context | None:
    """The context of this call, or None outside a running app."""
    return CURRENT.get(None)


@contextmanager
def entered(context: Context) -> Iterator[Context]:
    """Make `context` the current one for the block."""
    token = CURRENT.set(context)
    try:
        yield context
    finally:
        CURRENT.reset(token)


@contextmanager
def changed(**fields: Any) -> Iterator[Context]:
    """The current context with some fields replaced, for the block."""
    with entered(current().but(**fields)) as context:
        yield context


@contextmanager
def mounted(root_path: str) -> Iterator[None]:
    """Say for the block where the application is mounted."""
    token = ROOT_PATH.set(root_path)
    try:
        yield
    finally:
        ROOT_PATH.reset(token)


def now() -> datetime:
    """The present instant in UTC, by the node's clock."""
    from dujiang.kernel.clock import instant  # noqa: PLC0415  (kept out of the import of every declaration)

    return instant(current().node.clock.now_us())


async def sleep(seconds: float) -> None:
    """Wait, by the node's clock."""
    await current().node.clock.sleep(seconds)


def random() -> float:
    """A float in [0, 1) from the node's entropy; not for secrets."""
    return current().node.entropy.random()
