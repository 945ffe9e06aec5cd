"""Problem: one thing that is wrong with an input, as a stable code, a place and a sentence.

Pydantic has some hundred error types, and may rename them. A client needs few, and for ever. `CODES` is the one table
between them; an error type that a field type of ours or of the user's invented (`use_decimal_string`) is its own code.

The place is a JSON pointer (RFC 6901) into what the client sent. Pydantic's `loc` also names the branch of a union that
was tried, which is no part of the document, so the pointer follows the document and skips what is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic_core.core_schema import ErrorType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROBLEMS_MAX = 100
TEXT_MAX = 100
MESSAGE_MAX = 400

CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "invalid_key": "unknown_field",
    "unexpected_keyword_argument": "unknown_field",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "multiple_of": "out_of_range",
    "finite_number": "out_of_range",
    "int_parsing_size": "out_of_range",
    "date_past": "out_of_range",
    "date_future": "out_of_range",
    "datetime_past": "out_of_range",
    "datetime_future": "out_of_range",
    "timezone_aware": "timezone_required",
    "timezone_naive": "timezone_refused",
    "timezone_offset": "timezone_refused",
    "decimal_max_digits": "too_many_digits",
    "decimal_max_places": "too_many_digits",
    "decimal_whole_digits": "too_many_digits",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "bytes_too_short": "too_short",
    "bytes_too_long": "too_long",
    "too_short": "too_short",
    "too_long": "too_long",
    "url_too_long": "too_long",
    "literal_error": "unknown_choice",
    "enum": "unknown_choice",
    "union_tag_invalid": "unknown_choice",
    "union_tag_not_found": "missing",
    "json_invalid": "bad_json",
    "string_unicode": "bad_unicode",
    "string_not_ascii": "bad_format",
    "string_pattern_mismatch": "bad_format",
    "bytes_invalid_encoding": "bad_format",
    "date_from_datetime_inexact": "bad_format",
    "uuid_version": "bad_format",
    "url_syntax_violation": "bad_format",
    "url_scheme": "bad_format",
    "int_from_float": "wrong_type",
    "none_required": "wrong_type",
    "is_instance_of": "wrong_type",
    "is_subclass_of": "wrong_type",
    "value_error": "refused_value",
    "assertion_error": "refused_value",
}
# Every code that a wrong value can get, and what it means to whoever sent it.
INPUT_CODES = {
    "bad_format": "The value has the right type and cannot be read: a date, an id, a URL, a pattern",
    "invalid": "The value is not what this field takes",
    "missing": "A required field is not there",
    "out_of_range": "The value is too small, too large, or no allowed step",
    "refused_value": "A rule of the operation refuses the value",
    "timezone_refused": "The time names a zone, and the field takes none",
    "timezone_required": "The time does not name its zone",
    "too_long": "The text or list is too long",
    "too_many_digits": "The number has more digits or decimals than the field holds",
    "too_many_problems": "More than 1,000 values are wrong, too many to list",
    "too_short": "The text or list is too short",
    "unknown_choice": "The value is none of those that the field takes",
    "unknown_field": "The field does not exist here",
    "use_decimal_string": "A JSON number cannot say this amount exactly; send it as a decimal string",
    "wrong_type": "The value has another JSON type than the field takes",
}
PARSING = ("_parsing", "_object_invalid")
UNKNOWN: Any = object()
OF_PYDANTIC = frozenset(get_args(ErrorType))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: JSON pointer of the place; empty = the whole document.
        code: Stable word.
        message: What to change.
        source: Which part of the request it stands in: body, path, query, header, cookie.
    """

    path: str
    code: str
    message: str
    source: str = "body"

    def __str__(self) -> str:
        return f"{self.source} {self.path}: {self.message}" if self.path else f"{self.source}: {self.message}"


def shortened(text: str, limit: int = TEXT_MAX) -> str:
    """`text`, cut after `limit` characters: what a client sent is never echoed at length."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def problems_of(errors: Sequence[Mapping[str, Any]], document: Any, source: str = "body") -> tuple[Problem, ...]:
    """The problems that Pydantic's error list stands for; the first 100, ordered by place.

    Args:
        errors: As `ValidationError.errors()` gives them.
        document: What was validated, parsed; only looked at to tell its keys from Pydantic's own words. UNKNOWN = take
            every step of `loc` for a key.
        source: Which part of the request was validated.
    """
    found = (problem_of(error, document, source) for error in errors[:PROBLEMS_MAX])
    # By place, because Pydantic's own order is not the same in all its versions.
    return tuple(sorted(found, key=lambda problem: problem.path))


def problem_of(error: Mapping[str, Any], document: Any, source: str = "body") -> Problem:
    """The problem that one of Pydantic's errors stands for."""
    kind, given = error["type"], error.get("input")
    code = code_of(kind, given)
    message = str(error["msg"])
    if code == "unknown_field":
        message = f"{shortened(str(error['loc'][-1]))!r} is not a field here; remove it or correct its name"
    elif code == "missing" and kind == "missing":
        message = f"the field {shortened(str(error['loc'][-1]))!r} is required; add it"
    elif code == "use_decimal_string" and kind != code:
        message = "a number cannot say this amount exactly; send it as a decimal string"
    elif given is None:
        message = f"{message}, not null"
    if isinstance(given, str) and len(given) > TEXT_MAX:
        message = message.replace(given, shortened(given))
    path = pointer(error["loc"], document, kind)
    return Problem(path=path, code=code, message=shortened(message, MESSAGE_MAX), source=source)


def code_of(kind: str, given: object = None) -> str:
    """The stable code of a Pydantic error type, for this input."""
    if isinstance(given, float) and kind.startswith("decimal_max_"):
        return "use_decimal_string"
    found = CODES.get(kind)
    if found is not None:
        return found
    if kind not in OF_PYDANTIC:
        return kind
    if kind.endswith(PARSING):
        return "bad_format"
    return "wrong_type" if kind.endswith("_type") else "invalid"


def pointer(loc: Sequence[str | int], document: Any, kind: str) -> str:
    """The JSON pointer of `loc` inside `document`, without the names of union branches."""
    parts: list[str] = []
    node = document
    for index, step in enumerate(loc):
        inside = isinstance(node, dict) and step in node
        if inside or (isinstance(node, list) and isinstance(step, int) and step < len(node)):
            node = node[step]
        elif document is not UNKNOWN and not (kind == "missing" and index == len(loc) - 1):
            continue
        parts.append(shortened(str(step).replace("~", "~0").replace("/", "~1")))
    return "".join(f"/{part}" for part in parts)
