"""Asking: what a client was told is asked for once more, with its key; the answer shows what the system remembers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from dujiang.drill.clients import body_of
from dujiang.drill.network import NoAnswer
from dujiang.drill.violation import Violation
from dujiang.drill.workload.contract import RUN

if TYPE_CHECKING:
    from collections.abc import Collection

    from dujiang.drill.clients import Operation
    from dujiang.drill.workload.request import Request
    from dujiang.testing.harness import Response


class Asks(Protocol):
    """Who can send a request of a client once more: a world, or the judge of a real drill."""

    @property
    def expected_deaths(self) -> Collection[str]:
        """The codes of refusals that the application declares."""
        ...

    async def exchange(self, place: int, request: Request, headers: dict[str, str], operation: Operation) -> Response:
        """Send one request. Raises NoAnswer."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        ...


async def asked_again(asks: Asks, operation: Operation) -> Any:
    """Violations that show when an answered call is sent once more with its key."""
    final, flow = operation.final, operation.request.flow
    good = [answer for answer in operation.produced if 200 <= answer.status < 300]
    if final is None or not flow.writes or not flow.takes_key:
        return
    if len({answer.body for answer in good}) > 1:
        yield Violation("replay-stable", f"{operation.says} with one key was answered with different bytes")
        return
    refused = not 200 <= final.status < 300
    if refused and code_of(final) not in asks.expected_deaths:
        return
    again = await once_more(asks, operation)
    # `app.run` gives a value and no headers: an operation that was done anew gives another one, or changes a row.
    replayed = again is not None and (flow.method == RUN or "idempotent-replayed" in again.headers)
    if again is None:
        yield Violation("nothing-stuck", f"{operation.says} gets no answer after everything had healed")
    elif refused and not replayed:
        said = f"{operation.says} was refused with {code_of(final)}; asked again with its key it was decided anew"
        yield Violation("replay-stable", said)
    elif not replayed:
        said = f"{operation.says} was answered {final.status}; asked again with its key the app knows nothing of it"
        yield Violation("acked-not-lost", said)
    elif (again.status, again.body) != (final.status, final.body):
        said = f"{operation.says} with one key was answered {final.status}, then {again.status} with other bytes"
        yield Violation("replay-stable", said)


async def once_more(asks: Asks, operation: Operation, key: str = "") -> Response | None:
    """The same request with the same key, or another one, without faults."""
    headers = {**operation.request.headers, "idempotency-key": key or operation.key}
    for place in range(3):
        try:
            produced = len(operation.produced)
            answer = await asks.exchange(place, operation.request, headers, operation)
            del operation.produced[produced:]
        except NoAnswer:
            await asks.pause(1.0)
        else:
            return answer
    return None


def same_meaning(one: Request, other: Request) -> bool:
    """Whether two requests ask for the same thing, though perhaps in other words."""
    if one.path != other.path:
        return False
    check = one.flow.checks.get(("body",))
    if check is None or one.body is None or other.body is None:
        return one.body == other.body
    return bool(check(json.loads(one.body)) == check(json.loads(other.body)))


def code_of(answer: Response) -> str:
    """The code of a problem document, or nothing."""
    body = body_of(answer)
    return str(body.get("code", "")) if isinstance(body, dict) else ""
