"""Coverage: which flows a drill has exercised. A flow that never succeeded was not tested, whatever else was green."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.drill.workload.schema import nodes
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dujiang.drill.workload.contract import Flow

FIELDS_SHOWN = 6


@dataclass(eq=False, kw_only=True)
class FlowNotExercised(DujiangError):
    """No request of a drill to this flow succeeded, so that the drill says nothing about it.

    The drill makes requests from the types of a handler; it cannot know which values exist. Examples at the fields say it,
    and the documentation of the API shows them too; a function with `@module.workload` may do whatever is needed.
    """

    code = "flow_not_exercised"
    move = "fix"
    says = "{flow} is not exercised: {what}"
    cure = "{advice}"

    flow: str
    what: str
    advice: str


class Coverage:
    """Counts the answers of each flow, over all runs of a drill.

    Args:
        flows: What has to be exercised.
        obstacles: Why no request can be made, by the flow's name.
    """

    def __init__(self, flows: Sequence[Flow], obstacles: Mapping[str, str]) -> None:
        self._flows = flows
        self._obstacles = obstacles
        self.statuses: dict[str, Counter[int]] = {flow.name: Counter() for flow in flows}
        self._refusals: dict[str, Counter[tuple[int, str]]] = {flow.name: Counter() for flow in flows}
        self._details: dict[tuple[str, int, str], str] = {}

    def blank(self) -> Coverage:
        """One of the same flows that has counted nothing yet."""
        return Coverage(self._flows, self._obstacles)

    def note(self, flow: Flow, status: int, body: Any = None) -> None:
        """Count an answer; a problem document tells its code and detail. Flows that need not be exercised are ignored."""
        if flow.name not in self.statuses:
            return
        self.statuses[flow.name][status] += 1
        if status >= 400:
            said = body if isinstance(body, dict) else {}
            code = str(said.get("code", ""))
            self._refusals[flow.name][status, code] += 1
            self._details.setdefault((flow.name, status, code), str(said.get("detail", "")))

    def dump(self) -> dict[str, Any]:
        """The counts as a JSON value, for `add` in another process."""
        return {
            name: {
                "statuses": sorted(self.statuses[name].items()),
                "refusals": [
                    [status, code, count, self._details[name, status, code]]
                    for (status, code), count in sorted(self._refusals[name].items())
                ],
            }
            for name in self.statuses
        }

    def add(self, dumped: Mapping[str, Any]) -> None:
        """Add the counts of another process."""
        for name, each in dumped.items():
            self.statuses[name].update(dict(each["statuses"]))
            for status, code, count, detail in each["refusals"]:
                self._refusals[name][status, code] += count
                self._details.setdefault((name, status, code), detail)

    def not_exercised(self) -> list[FlowNotExercised]:
        """The flows of which no call succeeded, each with the most frequent refusal and what helps."""
        return [
            FlowNotExercised(flow=flow.title, what=self._what(flow), advice=advice(flow))
            for flow in self._flows
            if not any(200 <= status < 300 for status in self.statuses[flow.name])
        ]

    def _what(self, flow: Flow) -> str:
        if obstacle := self._obstacles.get(flow.name):
            return f"no request can be made: {obstacle}"
        calls = self.statuses[flow.name].total()
        if not calls:
            return "it was never called"
        refusals = self._refusals[flow.name]
        if not refusals:
            shown = ", ".join(str(status) for status in sorted(self.statuses[flow.name]))
            return f"none of {calls} calls succeeded; the answers were {shown}"
        # Of two that are equally frequent the lower status: which came first differs between processes.
        (status, code), count = min(refusals.items(), key=lambda each: (-each[1], each[0]))
        detail = self._details[flow.name, status, code]
        said = " ".join([str(status), *([code] if code else [])]) + (f": {detail}" if detail else "")
        return f"none of {calls} calls succeeded; {count} were answered {said}"


def advice(flow: Flow) -> str:
    """How the author of a flow can help."""
    names = unexampled(flow)
    shown = ", ".join(names[:FIELDS_SHOWN]) + (
        f" and {len(names) - FIELDS_SHOWN} more" if len(names) > FIELDS_SHOWN else ""
    )
    help_types = f"say which values exist, with Field(examples=[...]) at {shown}" if names else ""
    help_code = "call it from a function with @module.workload, which may prepare what it needs"
    return f"{help_types}; or {help_code}" if names else help_code


def unexampled(flow: Flow) -> list[str]:
    """The fields of a flow's requests that have neither examples nor a list of choices."""
    silent: dict[str, bool] = {}
    for schema in (flow.schema, *flow.refs.values()):
        for name, node in nodes(schema, ""):
            says = node.keys() & {"examples", "enum", "const"} or node.get("type") == "boolean"
            if name and node.get("type") not in ("object", "array", "null"):
                silent[name] = silent.get(name, True) and not says
    places = {"path", "query", "header", "cookie", "body", "arguments"}
    return [name for name, nothing in silent.items() if nothing and name not in places]
