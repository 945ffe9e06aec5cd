"""Pages: what each error code means, under the address that a problem document's `type` names.

    GET /docs/errors           every code
    GET /docs/errors/{code}    one of them

What is told of the platform's own codes lies beside this file (errors.json, made from the error classes like
docs/errors.md). An application's own refusals are found among the classes that are loaded: whatever this process has
answered was raised by one of them. Of a class that clients do not see, neither sentence nor cure is shown.

A page is a few hundred bytes of HTML that loads nothing. Every text is escaped, and the policy in its headers lets a
browser run no script and apply no style but the page's own.
tests/unit/gateway/test_pages.py asks for every code that an answer can carry.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from html import escape
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dujiang.gateway.problems import PAGES, Answer, NotFound, code_of_status, faces_caller, move_of_status
from dujiang.gateway.problems import answer_of_exception as answered
from dujiang.gateway.problems import send_answer as send_whole
from dujiang.kernel.context import ROOT_PATH, mounted
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.problem import INPUT_CODES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

__all__ = ["ErrorPages", "error_page", "explained"]

STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{overflow-x:auto;font-size:.85rem}dt{font-weight:600;margin-top:.6rem}dd{margin:0}td,th{text-align:left;"
    "padding:.15rem .8rem .15rem 0;vertical-align:top}"
)
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"public, max-age=3600"),
)
MOVES = {
    "fix": "Fix: change the request, the code or a setting; sending the same again changes nothing.",
    "choose": "Choose: nothing is broken, the caller decides what to do next.",
    "wait": "Wait: send the same again later; `Retry-After` says when.",
    "report": "Report: the server or the application failed; its operator finds the rest in the log, by `trace_id`.",
}
STATUS_CODE = re.compile(r"http_status_([45]\d\d)")


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What is told of one code.

    Attributes:
        code: The code.
        title: What kind of error it is.
        move: Whose turn it is.
        status: The HTTP status that a client sees; empty = no client meets it.
        text: Paragraphs; lines that are set in, or hold a picture, stay as they are.
        says: The sentence, with its values in braces.
        cure: How to cure it.
        values: Further members of the problem document.
    """

    code: str
    title: str
    move: str
    status: str = ""
    text: str = ""
    says: str = ""
    cure: str = ""
    values: tuple[str, ...] = ()


class ErrorPages:
    """The pages as an ASGI application, for a router that names the code `code`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with mounted(scope.get("root_path", "")):
            try:
                answer = error_page(scope.get("path_params", {}).get("code", ""))
            except NotFound as error:
                answer = answered(error)
            await send_whole(send, answer)


def error_page(code: str) -> Answer:
    """The page of one code, or of all for an empty one. Raises NotFound."""
    if not code:
        return page("Errors", index())
    found = explained(code)
    if found is None:
        raise NotFound(what=f"the error code {code}")
    return page(found.code, section(found))


def explained(code: str) -> Explained | None:
    """What is told of a code; None when no answer of this process can carry it."""
    found = packaged().get(code)
    if found is not None:
        return found
    if code in INPUT_CODES:
        return Explained(code=code, title=INPUT_CODES[code], move="fix", status="422", text=OF_INPUT)
    own = next((kind for kind in own_kinds() if kind.code == code), None)
    return of_status(code) if own is None else of_class(own)


OF_INPUT = (
    "A value of the request is not what this operation takes. The member `errors` lists every place with a JSON "
    "pointer and a sentence that says what to change; when all places share one code, it is the code of the answer."
)


@cache
def packaged() -> dict[str, Explained]:
    """What the package tells of its own codes."""
    rows = json.loads(files("dujiang.gateway").joinpath("errors.json").read_text("utf-8"))
    return {row["code"]: Explained(**{**row, "values": tuple(row["values"])}) for row in rows}


def own_kinds() -> Iterator[type[DujiangError]]:
    """Every loaded error class with a code of its own that is not the package's."""
    waiting: list[type[DujiangError]] = [DujiangError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "code" in vars(kind) and not f"{kind.__module__}.".startswith("dujiang."):
            yield kind


def of_class(kind: type[DujiangError]) -> Explained:
    """What may be told of an application's own class."""
    facing = faces_caller(kind.__new__(kind))
    return Explained(
        code=kind.code,
        title=kind.title(),
        move=kind.move if facing or kind.move != "fix" else "report",
        status=str(kind.http_status() if facing or kind.move != "fix" else 500),
        says=kind.says if facing else "",
        cure=kind.cure if facing else "",
    )


def of_status(code: str) -> Explained | None:
    """The code that an HTTPException gets from its status."""
    if code == "internal":
        return Explained(code=code, title="The server failed", move="report", status="500")
    match = STATUS_CODE.fullmatch(code)
    statuses = [int(match[1])] if match else [each.value for each in HTTPStatus if each >= 400]
    status = next((each for each in statuses if code_of_status(each)[1] == code), None)
    if status is None:
        return None
    title = f"HTTP status {status}: {code_of_status(status)[0]}"
    text = "The application answers with this status; the member `detail` holds its own words."
    return Explained(code=code, title=title, move=move_of_status(status), status=str(status), text=text)


def page(title: str, body: str) -> Answer:
    """A whole page."""
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )
    return Answer(200, list(HEADERS), html.encode())


def section(found: Explained) -> str:
    """What stands on the page of one code."""
    rows = [("Whose turn", MOVES[found.move]), ("HTTP status", found.status or "none: no client meets it")]
    rows += [(name, text) for name, text in (("Says", found.says), ("Cure", found.cure)) if text]
    if found.values:
        rows.append(("Members", ", ".join(found.values)))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return "\n".join(
        [
            f'<p><a href="{escape(ROOT_PATH.get() + PAGES)}">All errors</a></p>',
            f"<h1>{escape(found.code)}</h1>",
            f"<p>{escape(found.title)}</p>",
            *paragraphs(found.text),
            f"<dl>{listed}</dl>",
        ]
    )


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs as HTML; one whose lines are set in or spaced out is a picture."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if "  " in paragraph:
            yield f"<pre>{escape(paragraph)}</pre>"
        elif paragraph:
            yield f"<p>{escape(' '.join(paragraph.split()))}</p>"


def index() -> str:
    """What stands on the page of all codes."""
    inputs = [found for code in INPUT_CODES if code not in packaged() and (found := explained(code))]
    all_of_them = [*packaged().values(), *inputs, *(of_class(kind) for kind in own_kinds())]
    by_code = {found.code: found for found in sorted(all_of_them, key=lambda found: found.code)}
    root = ROOT_PATH.get() + PAGES
    rows = "\n".join(
        f'<tr><td><a href="{escape(f"{root}/{found.code}")}">{escape(found.code)}</a></td><td>{escape(found.status)}</td>'
        f"<td>{escape(found.move)}</td><td>{escape(found.title)}</td></tr>"
        for found in by_code.values()
    )
    moves = "".join(f"<li>{escape(text)}</li>" for text in MOVES.values())
    return (
        "<h1>Errors</h1>\n<p>A code never changes its meaning; its move says whose turn it is.</p>\n"
        f"<ul>{moves}</ul>\n<table><tr><th>code</th><th>HTTP</th><th>move</th><th>what</th></tr>\n{rows}</table>"
    )
