"""Log: one line per fact, structured, to stderr; every logger of the process ends up here, uvicorn's too.

    structlog logger --+
    logging.getLogger -+--> trace, tenant, node --> secrets masked --> control characters escaped --> JSON or text

JSON where a machine reads, text where a person does. What comes from outside may stand in any value: an escape sequence
would drive the reader's terminal, and a line feed would forge a line. Masking comes before escaping, and both before
anything is written, so no logger can forget them; a traceback's lines are set in by two spaces, so none of them can look
like a line of its own.

A secret is known by its key or by its place in a URL or behind `password=`. A bare secret in free text is not recognised:
nobody can. Requests and messages are not logged one by one; metrics count them.
tests/unit/telemetry/test_log.py sends hostile values through both formats.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any, Literal

import structlog

from dujiang.kernel.clock import instant
from dujiang.kernel.context import current_or_none
from dujiang.telemetry.tracing import current_trace_id

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]

MASK = "***"
DEPTH_MAX = 6
SECRET_KEY = re.compile(r"password|passwd|secret|token|authorization", re.IGNORECASE)
URL_SECRET = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/]*@", re.IGNORECASE)
TEXT_SECRET = re.compile(
    r"((?:password|passwd|secret|token)\s*=\s*)[^\s&;,]+|((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE
)
# C0, DEL and C1 drive terminals; U+2028 and U+2029 end lines; U+202A-202E and U+2066-2069 turn text round.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LOUD = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
EVENT_WIDTH = 40
# What structlog hands from step to step; its last step but one takes them away.
STRUCTLOGS = ("_record", "_from_structlog")


class OurHandler(logging.StreamHandler[Any]):
    """The handler that `configure` installs; a class of its own, so that the next call finds and replaces it."""


def configure(level: Level = "info", log_format: Format = "auto", *, stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream`; may be called again.

    Args:
        level: The lowest level that is written.
        log_format: "auto" is text on a terminal and JSON otherwise.
        stream: Standard error by default.
    """
    stream = stream or sys.stderr
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    handler = OurHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
            processors=[
                _named,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _text if as_text else _json,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, OurHandler)), handler]
    root.setLevel(level.upper())
    for name in LOUD:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)  # A level of its own would silence it whatever is asked for here.
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def masked(value: Any, *, depth: int = 0) -> Any:
    """The value without secrets and without characters that a terminal obeys; containers become plain ones."""
    if isinstance(value, str):
        return escaped(without_secrets(value))
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < DEPTH_MAX:
        if isinstance(value, dict):
            return {escaped(str(key)): masked_under(str(key), one, depth=depth + 1) for key, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [masked(one, depth=depth + 1) for one in value]
    try:
        shown = str(value)
    except Exception:  # noqa: BLE001 - a value that cannot show itself must not cost the line
        shown = f"<{type(value).__name__}>"
    return masked(shown)


def masked_under(key: str, value: Any, *, depth: int = 0) -> Any:
    """The value as `masked` shows it, or the mask when its key says that it is a secret."""
    return MASK if SECRET_KEY.search(key) and value not in (None, "") else masked(value, depth=depth)


def without_secrets(text: str) -> str:
    """The text with the passwords of URLs, `password=...` and bearer tokens masked."""
    if "://" in text:
        text = URL_SECRET.sub(rf"\1:{MASK}@", text)
    return TEXT_SECRET.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)


def escaped(text: str) -> str:
    """The text with every character that a terminal or a line reader obeys written as its escape."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _named(_logger: Any, _method: str, values: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line's fields in their order: time, level, event, logger, trace, tenant, node, then the caller's own."""
    record: logging.LogRecord = values["_record"]
    context = current_or_none()
    now_us = int(record.created * 1e6) if context is None else context.node.clock.now_us()
    line: dict[str, Any] = {
        "time": instant(now_us).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": masked(values.pop("event", "")),
        "logger": escaped(record.name),
    }
    trace_id = current_trace_id()
    if trace_id:
        line["trace_id"] = trace_id
    if context is not None:
        if context.tenant:
            line["tenant"] = masked(context.tenant)
        line["node"] = masked(context.node.name)
    raised = _raised(values.pop("exc_info", None))
    # Another handler may have formatted the record before us and left its own words on it.
    skipped = () if values["_from_structlog"] else ("message", "asctime")
    for key, value in values.items():
        if key in STRUCTLOGS:
            line[key] = value
        elif key not in skipped:
            name = escaped(str(key))
            line[name if name not in line else f"{name}_"] = masked_under(str(key), value)
    if raised is not None:
        text = "".join(traceback.format_exception(raised)).rstrip("\n")
        line["exception"] = [escaped(one) for one in without_secrets(text).split("\n")]
    return line


def _raised(exc_info: Any) -> BaseException | None:
    """The error of a line: given as itself, as the triple of the standard library, or as "the one in hand"."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _json(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    if "exception" in line:
        line["exception"] = "\n".join(line["exception"])
    return json.dumps(line, ensure_ascii=False, default=str)


def _text(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    exception = line.pop("exception", [])
    head = f"{line.pop('time')} {line.pop('level'):<7} {line.pop('event')!s:<{EVENT_WIDTH}} [{line.pop('logger')}]"
    rest = [f"{key}={_word(value)}" for key, value in line.items()]
    return "\n".join([" ".join([head, *rest]), *(f"  {one}" for one in exception)])


def _word(value: Any) -> str:
    """A value in a line of text; quoted unless it is one plain word."""
    plain = isinstance(value, str) and value.isalnum()
    return str(value) if plain else json.dumps(value, ensure_ascii=False, default=str)


__all__ = ["Format", "Level", "configure", "escaped", "masked", "without_secrets"]
