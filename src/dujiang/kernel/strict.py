r"""Strict JSON: what every interface refuses before any type has looked at a body.

A JSON parser alone accepts 1e999, NUL inside text and 200 levels of nesting, and most accept duplicate keys; each of
them surprises something later: the database cuts at NUL, two readers choose different duplicates, infinity has no
column. `check` is the one place where they end, for HTTP, events and stored answers alike.

A small body has no time to be walked in Python. Instead `risky` asks the bytes whether the parsed document *could* hold
something forbidden: no NUL without `\u0000`, no overflow without an exponent or 300 digits in a row. The question may
be answered "perhaps" wrongly (an escaped backslash before `u0000`, a text with `type1, `), never "no" wrongly; only
after a "perhaps" is the document walked, and the walk is exact. Depth has a question of its own, because lists of small
objects have many brackets. Cost: 1.3 us for 90 bytes, of which 0.5 are jiter's. Rejected: `json.loads` with hooks (15
times that, and a RecursionError of its own), and a walk every time.

tests/unit/kernel/test_codec.py holds each rule, and that no bytes at all lead to any other error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jiter import from_json

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.problem import shortened

DEPTH_MAX = 32
KEYS_MAX = 1000
STRING_BYTES_MAX = 64 * 1024
NUMBER_DIGITS_MAX = 4300  # what Python itself is willing to read

# No number below 300 characters without an exponent is infinite, and 1,000 keys need more bytes than this.
SHORT_BYTES = 300
BACKSLASH = 0x5C
# Two patterns with a literal first byte: the search for one is three times as fast as for a set of two.
EXPONENT_LOWER = re.compile(rb"e\+?[0-9]+(?:[ \t\r\n,\]}]|\Z)").search
EXPONENT_UPPER = re.compile(rb"E\+?[0-9]+(?:[ \t\r\n,\]}]|\Z)").search
DIGIT_BLOCK = 150
DIGITS_TOO_MANY = re.compile(rb"[0-9.]{%d}" % (NUMBER_DIGITS_MAX + 1)).search
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

JITER_SAYS = re.compile(r"(.*) at line (\d+) column (\d+)", re.DOTALL)
# Escapes from left to right: a pair of surrogates, or one alone (group 1), or any other.
SURROGATES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


@dataclass(eq=False, kw_only=True)
class BadBody(DujiangError):
    """The body is not JSON that this system accepts."""

    code = "bad_body"
    move = "fix"
    status = 400
    says = "the body cannot be read at {at}"

    at: str = ""


class BodyRequired(BadBody):
    """The body is empty."""

    code = "body_required"
    says = "the body is empty"
    cure = "send a JSON document"


@dataclass(eq=False, kw_only=True)
class BadJson(BadBody):
    """The body is not JSON."""

    code = "bad_json"
    says = "the body is not JSON at {at}: {why}"
    cure = "send one JSON document (RFC 8259) and nothing after it"

    why: str


class BadNumber(BadBody):
    """A number is NaN, infinite, or beyond the range of a double."""

    code = "bad_number"
    says = "the number at {at} is NaN, infinite, or beyond 1.8e308"
    cure = "send a finite number, null, or the value as a string"


@dataclass(eq=False, kw_only=True)
class DuplicateKey(BadBody):
    """An object names one key twice."""

    code = "duplicate_key"
    says = "the key {key} stands twice in one object, the second time at {at}"
    cure = "name each key once"

    key: str


class TooDeep(BadBody):
    """The document is nested too deeply."""

    code = "too_deep"
    says = f"the document is nested deeper than {DEPTH_MAX} levels at {{at}}"
    cure = f"nest at most {DEPTH_MAX} arrays and objects"


class NumberTooLong(BadBody):
    """A number has too many digits."""

    code = "number_too_long"
    says = f"a number has more than {NUMBER_DIGITS_MAX} digits"
    cure = "send fewer digits, or the value as a string"


class BadUnicode(BadBody):
    """Text is not valid Unicode."""

    code = "bad_unicode"
    says = "the text at {at} is not valid Unicode: invalid UTF-8, or half of a surrogate pair"
    cure = "encode the body as UTF-8, and send both halves of a surrogate pair, or neither"


class BadEncoding(BadBody):
    """The body begins with a byte order mark, or is UTF-16 or UTF-32."""

    code = "bad_encoding"
    says = "the body begins with a byte order mark, or is encoded as UTF-16 or UTF-32"
    cure = "send UTF-8 without a byte order mark"


class NulNotAllowed(BadBody):
    """Text contains the character U+0000."""

    code = "nul_not_allowed"
    status = 422
    says = "the text at {at} contains the character U+0000"
    cure = "remove the character; databases cannot keep it"


class TooManyKeys(BadBody):
    """An object has too many keys."""

    code = "too_many_keys"
    says = f"the object at {{at}} has more than {KEYS_MAX} keys"
    cure = f"send at most {KEYS_MAX} keys in one object; use an array for lists"


class StringTooLong(BadBody):
    """A string is too long."""

    code = "string_too_long"
    status = 422
    says = f"the text at {{at}} is longer than {STRING_BYTES_MAX // 1024} KiB"
    cure = f"send at most {STRING_BYTES_MAX} bytes of UTF-8 in one string"


def check(body: bytes) -> None:
    """Accept `body` as strict JSON, or raise a BadBody."""
    parse(body)


def parse(body: bytes) -> Any:
    """The document in `body`, as dicts, lists and scalars. Raises BadBody."""
    try:
        document = from_json(body, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as cause:
        raise unreadable(body, str(cause)) from None
    if risky(body) or (body.count(b"{") + body.count(b"[") > DEPTH_MAX and too_deep(document)):
        if DIGITS_TOO_MANY(body) and DIGITS_TOO_MANY(STRINGS.sub(b'""', body)):
            raise NumberTooLong
        try:
            walk(document, 1)
        except BadBody as error:
            error.at = shortened(error.at, 400) or "the top level"
            raise
    return document


def plain(body: bytes) -> bool:
    """Whether nothing can be forbidden in this document, if it is JSON, but a key that stands twice. True is certain."""
    return (
        not risky(body)
        and body.count(b"{") + body.count(b"[") <= DEPTH_MAX
        and body.find(b"NaN") < 0
        and body.find(b"Infinity") < 0
    )


def plain_scalars(body: bytes) -> bool:
    """`plain` for a document that its type then holds to be one object of texts, integers, booleans and nulls.

    That type refuses whatever is nested, has a fraction or an exponent, or is no number, so none of it is looked for here.
    """
    return not (may_hold_nul(body) or (len(body) > SHORT_BYTES and long_risky(body)))


def risky(body: bytes) -> bool:
    """Whether the document could hold something forbidden; False is certain, True is not."""
    return bool(
        may_hold_nul(body)
        or EXPONENT_LOWER(body)
        or EXPONENT_UPPER(body)
        or (len(body) > SHORT_BYTES and long_risky(body))
    )


def may_hold_nul(body: bytes) -> bool:
    """Whether U+0000 may stand in a text, which JSON allows only as an escape."""
    # The search for one byte costs a fifth of the search for six, and most bodies hold no escape.
    return BACKSLASH in body and body.find(b"\\u0000") >= 0


def long_risky(body: bytes) -> bool:
    """Whether a document of more than SHORT_BYTES could hold too long a text, too many digits or too many keys."""
    return len(body) > STRING_BYTES_MAX or many_digits(body) or body.count(b":") > KEYS_MAX


def many_digits(body: bytes) -> bool:
    """Whether 300 digits may stand in a row: such a run covers one whole aligned block of 150."""
    return any(body[start : start + DIGIT_BLOCK].isdigit() for start in range(0, len(body), DIGIT_BLOCK))


def too_deep(document: Any) -> bool:
    """Whether containers stand inside each other deeper than allowed; looks at one level after the other."""
    level = [document]
    for _ in range(DEPTH_MAX):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True


def walk(value: Any, depth: int) -> None:
    """Raise the BadBody that `value` deserves, its `at` a JSON pointer built on the way up."""
    if isinstance(value, str):
        if "\0" in value:
            raise NulNotAllowed
        # A character takes at most 4 bytes, so only long strings are encoded to be measured.
        if len(value) * 4 > STRING_BYTES_MAX and len(value.encode()) > STRING_BYTES_MAX:
            raise StringTooLong
    elif isinstance(value, float):
        if value in (float("inf"), float("-inf")):
            raise BadNumber
    elif isinstance(value, (dict, list)):
        if depth > DEPTH_MAX:
            raise TooDeep
        if isinstance(value, dict) and len(value) > KEYS_MAX:
            raise TooManyKeys
        key: str | int = 0
        try:
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(key, depth)
                walk(item, depth + 1)
        except BadBody as error:
            error.at = f"/{shortened(str(key))}{error.at}"
            raise


def unreadable(body: bytes, message: str) -> BadBody:
    """The error for a body that jiter refused with `message`."""
    if not body.strip(b" \t\r\n"):
        return BodyRequired()
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\0" in body[:2]:
        return BadEncoding()
    try:
        body.decode()
    except UnicodeDecodeError as cause:
        return BadUnicode(at=f"byte {cause.start + 1}")
    match = JITER_SAYS.fullmatch(message)
    why, line, column = (match[1], int(match[2]), int(match[3])) if match else (message, 1, 1)
    at = f"line {line} column {column}"
    if why.startswith("Detected duplicate key "):
        return DuplicateKey(key=shortened(why.removeprefix("Detected duplicate key ")), at=at)
    if why.startswith("recursion limit"):
        return TooDeep(at=at)
    if why == "number out of range":
        return NumberTooLong(at=at)
    if "surrogate" in why or "hex escape" in why:
        alone = next((found for found in SURROGATES.finditer(body) if found[1]), None)
        if alone:
            return BadUnicode(at=f"byte {alone.start() + 1}")
    start = 0
    for _ in range(line - 1):
        start = body.find(b"\n", start) + 1
    if body.startswith((b"NaN", b"Infinity"), start + max(column, 1) - 1):
        return BadNumber(at=at)
    return BadJson(why=shortened(why), at=at)
