"""Client: what a workload that a person writes may do to the app; the drill's simulator gives it.

    @shop.workload
    async def buyers(client: Client) -> None:
        placed = await client.post("/api/v1/orders", {"user_id": 1, "items": ["itemA"]})
        if placed.status == 201:
            await client.get(f"/api/v1/orders/{placed.json['order_id']}")

Time and chance are the simulator's too, so that a failing run can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from dujiang.gateway.handler import inspected, where_of
from dujiang.kernel.errors import Declared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

T = TypeVar("T")


class Reply(Protocol):
    """An answer."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def json(self) -> Any:
        """The body as a JSON value; None when there is none."""
        ...


@runtime_checkable
class Client(Protocol):
    """One client of the app, in a function with `@module.workload`.

    A call may be answered with any status, a lost one with 503 or 504: a fault of the drill is no error of the workload.
    `headers` are by lower-case name; `key` is the Idempotency-Key. A body is a JSON value, or bytes as they are; what is
    sent below `/_dj/` comes from the operator.
    """

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Reply:
        """GET a path, with its query if any."""
        ...

    async def post(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """POST a JSON value."""
        ...

    async def put(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """PUT a JSON value."""
        ...

    async def patch(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """PATCH with a JSON value."""
        ...

    async def delete(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """DELETE, with a JSON value if any."""
        ...

    async def run(self, verb: Any, *args: Any, key: str | None = None, **values: Any) -> Any:
        """Run a write or read, as `App.run`; returns what its function returns, and raises what it refuses."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def choice(self, options: Sequence[T]) -> T:
        """One of several; the first is the simplest."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, in simulated time."""
        ...


@dataclass(frozen=True, eq=False)
class DeclaredWorkload:
    """A function that acts as one client of the app in a drill.

    Attributes:
        name: `module.function`.
        function: Runs once for each client of a run.
        only: The drill makes no calls of its own to the module's writes.
    """

    name: str
    function: Callable[[Client], Awaitable[None]]
    only: bool = False


def declared_workload(
    module: str, function: Callable[[Client], Coroutine[Any, Any, None]], taken: Sequence[str], *, only: bool
) -> DeclaredWorkload:
    """The declaration of a function as a workload of a module. Raises Declared."""
    handler, where = inspected(function, worlds=(Client,)), where_of(function)
    if handler.parameters:
        extra = ", ".join(handler.parameters)
        raise Declared(where=where, what=f"a workload takes {extra}", how="take `client: Client` and nothing else")
    if handler.answer is not type(None):
        raise Declared(where=where, what="a workload returns something", how="declare `-> None`")
    name = f"{module}.{function.__name__}"
    if name in taken:
        raise Declared(where=where, what=f"two workloads are named {name}", how="rename one of them")
    return DeclaredWorkload(name, function, only)
