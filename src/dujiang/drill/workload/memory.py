"""Memory: the ids and keys that the answers of one run taught, few of each, so that clients meet on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from dujiang.drill.workload.names import WRAPPERS, is_key, same, singular, snake, stem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.drill.workload.contract import Flow
    from dujiang.drill.workload.request import Request

# Of one name only the latest are kept: many ids would spread the clients over many rows, where nothing ever collides.
KEPT = 4
# Of a long list the first say enough.
MEMBERS_MAX = 20


class Memory:
    """What the clients of one run know. Cheap to make; all clients of a run share one.

    Args:
        kept: Of one name only so many of the latest are kept.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._known: dict[str, list[Any]] = {}
        self._sent = 0

    def __repr__(self) -> str:
        return f"<Memory of {', '.join(sorted(self._known)) or 'nothing'}>"

    def learn(self, flow: Flow, status: int, body: Any, request: Request | None = None) -> None:
        """Remember the keys in an answer; in any but a 2xx there is nothing to remember.

        Args:
            flow: What was asked.
            status: Of the answer.
            body: Its JSON value, or what an operation returned.
            request: What was sent: the keys in it exist from now on.
        """
        if not 200 <= status < 300:
            return
        if request is not None:
            for name, value in request.named:
                self._keep(name, value)
        self._walk(flow, to_jsonable_python(body, fallback=str), "", flow.about)

    def known(self, wanted: str) -> Sequence[Any]:
        """The values that may stand where a stem is asked for, the latest first; at most four."""
        found = list(self._known.get(wanted, ()))
        for name, values in self._known.items():
            if len(found) >= self._kept:
                break
            if name != wanted and same(wanted, name):
                found += values
        return found[: self._kept]

    def next_number(self) -> int:
        """A number that no other request of this run has; from 1."""
        self._sent += 1
        return self._sent

    def _walk(self, flow: Flow, value: Any, name: str, inside: str) -> None:
        """Look at one value of an answer: `name` is its field, `inside` what holds that."""
        if isinstance(value, dict):
            held = {stem(key, inside) for key in value}
            for key, member in value.items():
                within = inside
                if isinstance(member, (dict, list)):
                    # A list of items inside an order is no list of orders; one that stands alone is.
                    wraps = snake(key) in WRAPPERS and inside not in held
                    within = inside if wraps else singular(key)
                self._walk(flow, member, key, within)
        elif isinstance(value, list):
            for member in value[:MEMBERS_MAX]:
                self._walk(flow, member, singular(name), inside)
        elif type(value) in (str, int):
            # An answer that is a bare value names what was asked for.
            named = stem(name, inside) if name else inside
            if is_key(name or "id") or named in flow.keys:
                self._keep(named, value)

    def _keep(self, name: str, value: Any) -> None:
        values = self._known.setdefault(name, [])
        if value in values:
            values.remove(value)
        values.insert(0, value)
        del values[self._kept :]
