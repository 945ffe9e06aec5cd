"""Request: one call as it is sent, put together from the parts that a pool holds and the slots that memory fills."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from dujiang.drill.workload.contract import RUN
from dujiang.gateway.routes import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dujiang.drill.workload.contract import Flow

# A path is sent as it stands: what would have to be escaped, or means a folder, is left to the corpus of bad requests.
PATH_TEXT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~@:+-]{1,200}")
HEADER_TEXT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,200}[\x21-\x7e])?")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call.

    Attributes:
        method: GET, POST, ...; `RUN` for an operation without a path.
        path: With its query; for an operation its name.
        headers: By lower-case name; without the operator's token, which the sender adds where `flow.operator` says so.
            An Idempotency-Key is among them only where the flow requires one.
        body: JSON; None when there is none.
        flow: What it is a request of.
        named: The keys in it: stem and value.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    flow: Flow
    named: tuple[tuple[str, Any], ...] = field(repr=False, default=())

    def arguments(self) -> dict[str, Any]:
        """For an operation: its parameters by name, as `Runtime.run` takes them."""
        given = json.loads(self.body or b"{}")
        return {name: self.flow.checks["arguments", name](value) for name, value in given.items()}


def unsendable(parts: Mapping[str, Any]) -> str:
    """Why parts cannot be sent in a path or a header; empty when they can."""
    for name, value in parts.get("path", {}).items():
        if PATH_TEXT.fullmatch(text_of(value)) is None:
            return f"{value!r} cannot stand in a path as {name}"
    for place in ("header", "cookie"):
        for name, value in parts.get(place, {}).items():
            if value is not None and HEADER_TEXT.fullmatch(text_of(value)) is None:
                return f"{value!r} cannot stand in the {place} {name}"
    return ""


def request_of(flow: Flow, parts: Mapping[str, Any], named: tuple[tuple[str, Any], ...], number: int) -> Request:
    """The request that parts make.

    Args:
        flow: Of which.
        parts: The parts of a request, valid.
        named: The keys in them.
        number: Differs between the requests of a run; the Idempotency-Key is made of it.
    """
    headers = {"idempotency-key": f"drill-{number}"} if flow.key_required else {}
    if flow.method == RUN:
        arguments = json.dumps(parts["arguments"], ensure_ascii=False).encode()
        return Request(method=RUN, path=flow.path, headers=headers, body=arguments, flow=flow, named=named)
    given = parts.get("path", {})
    path = TEMPLATE.sub(lambda match: text_of(given[match[1]]), flow.path)
    query = [(name, text_of(each)) for name, value in parts.get("query", {}).items() for each in many(value)]
    headers |= {name.lower(): text_of(value) for name, value in parts.get("header", {}).items() if value is not None}
    cookies = [f"{name}={text_of(value)}" for name, value in parts.get("cookie", {}).items() if value is not None]
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    body = None
    if "body" in parts:
        body = json.dumps(parts["body"], ensure_ascii=False, separators=(",", ":")).encode()
        headers["content-type"] = "application/json"
    target = f"{path}?{urlencode(query)}" if query else path
    return Request(method=flow.method, path=target, headers=headers, body=body, flow=flow, named=named)


def many(value: Any) -> list[Any]:
    """The values of one query parameter: none for null, each member of a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def text_of(value: Any) -> str:
    """A JSON value as it stands in a path, a query or a header."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
