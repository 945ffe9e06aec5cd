"""Values: what a column of each type holds, said once for every database.

    type                          holds                                                          else
    SmallInteger Integer Big...   whole numbers of 16, 32, 64 bits                               refused
    String(n) Text Unicode        text; assigned to a column at most n characters, spaces count  refused
    Enum                          its members and their names                                    refused
    Boolean                       True, False, 1, 0                                              refused
    Float Double                  finite numbers                                                 NaN, infinity: refused
    Date Time DateTime            a date without a time; a time, a datetime with or without a zone as the type says
    Interval                      up to the year 9999, counted from 1970, either way             refused
    LargeBinary                   bytes                                                          refused
    Uuid                          UUID, or with as_uuid=False its text                           refused
    JSON                          what JSON can say; no NaN, no infinity                         refused

No text holds the character NUL or half of a surrogate pair, in JSON neither.

Left to themselves the databases disagree about most of this. SQLite stores "abc" in an INTEGER column and any text in
a VARCHAR(4); PostgreSQL's driver refuses the same values with errors of six classes, and cuts spaces off silently. So
the value is looked at before it is sent, at one place (data/meaning.py puts the rules to the parameters), and the error
is one for both. Rejected: to let the database refuse and to read its error. SQLite would have to be taught every rule
by a CHECK, tables that somebody else made would have none, and PostgreSQL names no column.

A rule also has a `quick` form, an expression of Python that is true for the ordinary value; data/binding.py writes it
into the code that binds a statement, so that it costs no call. What an expression of SQL computes is seen by the
database alone: its refusals, SQLSTATE class 22, have the same error, with a sentence of ours for each (`SAID`).

testing/conformance/values.py holds every database to the table.
"""

from __future__ import annotations

import json
import operator
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import types
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql.sqltypes import _AbstractInterval

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "INTERVAL",
    "UNNAMED",
    "ColumnRefused",
    "Misfit",
    "Rule",
    "canonical_json",
    "data_refused",
    "rule_of",
    "shape",
    "strict_json",
]

# The escape of the character NUL, not preceded by an odd number of backslashes.
NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

DIGITS_SHOWN = 20
BITS = ((types.SmallInteger, 16), (types.BigInteger, 64), (types.Integer, 32))
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (an interval is counted from it, without a zone)
INTERVAL_MIN, INTERVAL_MAX = datetime.min - EPOCH, datetime.max - EPOCH  # noqa: DTZ901  (without a zone too)

UNNAMED = "the statement"

# What a database finds in the data of a statement, by SQLSTATE; one sentence, whatever the product says.
SAID = {
    "22001": "a text is longer than its column takes",
    "22003": "a number is out of the range of its column or of its type",
    "22007": "a text is no date or time",
    "22008": "a date or time is out of range",
    "22012": "it divides by zero",
    "22021": "a text holds the character NUL or half of a surrogate pair",
    "22025": "a pattern of LIKE ends with its escape character",
    "22030": "a JSON object names one key twice",
    "2201W": "a LIMIT is below zero",
    "2201X": "an OFFSET is below zero",
    "54000": "a value is larger than the database or an index of it takes",
}
SAID_OF_OTHERS = "a value is not of the type that stands in its place"


@dataclass(eq=False, kw_only=True)
class ColumnRefused(DujiangError, DontWrapMixin):
    """A value does not fit the place that it was sent to."""

    code = "column_value"
    move = "fix"
    status = 422
    says = "{column} does not hold {value}: {why}"
    cure = "send a value that fits; a limit in the body's model, such as Field(max_length=64), refuses it earlier"

    column: str
    value: str
    why: str


class Misfit(ValueError):
    """Why a value does not fit; whoever knows the column makes a ColumnRefused of it."""


@dataclass(frozen=True)
class Rule:
    """What one type holds.

    Attributes:
        fit: Gives the value as the driver takes it; raises Misfit. Is not asked about None.
        quick: An expression over `{v}` that is true only for values that fit and that the driver takes as they are,
            without the type's own processor; empty = there is none.
    """

    fit: Callable[[Any], Any]
    quick: str = ""


def data_refused(sqlstate: str, column: str = UNNAMED) -> ColumnRefused:
    """The error for what a database refuses while it runs a statement."""
    return ColumnRefused(column=column, value="a value", why=SAID.get(sqlstate, SAID_OF_OTHERS))


def shape(value: object) -> str:
    """What a value is, without what it says: texts and bytes may be secret and long."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        bits = value.bit_length()
        return f"the int {int(value)}" if bits <= 64 else f"an int of {bits} bits"
    if isinstance(value, (float, Decimal, date, time, timedelta)):
        text = str(value)
        kind = type(value).__name__
        return f"the {kind} {text}" if len(text) <= 3 * DIGITS_SHOWN else f"a {kind} of {len(text)} characters"
    return f"a value of type {type(value).__name__}"


def rule_of(kind: types.TypeEngine[Any], length: int | None = None) -> Rule | None:
    """The rule of a dialect's own type, below decorators; None for types that only one database has.

    Args:
        kind: The type.
        length: The longest text, for a parameter that is assigned to a column; a comparison may name a longer one.
    """
    if isinstance(kind, types.Enum):
        return Rule(lambda value: choice(kind, value))
    for family, bits in BITS:
        if isinstance(kind, family):
            return INTEGERS[bits]
    if isinstance(kind, types.String):
        return text_rule(length)
    if isinstance(kind, types.DateTime):
        return AWARE if kind.timezone else NAIVE
    if isinstance(kind, types.Uuid):
        return Rule(uuid_of if kind.as_uuid else uuid_text)
    return next((rule for family, rule in RULES if isinstance(kind, family)), None)


def integer_rule(bits: int) -> Rule:
    """Whole numbers of so many bits, one of them the sign."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def fit(value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise Misfit("it takes whole numbers") from None
        if least <= number <= most:
            return number
        raise Misfit(f"it takes whole numbers of {bits} bits, from {least} to {most}")

    return Rule(fit, f"{{v}}.__class__ is int and {least} <= {{v}} <= {most}")


def text_rule(length: int | None = None) -> Rule:
    """Text of at most so many characters."""

    def fit(value: Any) -> Any:
        check_text(value)
        if length is not None and len(value) > length:
            raise Misfit(f"it takes at most {length} characters")
        return value

    limit = "" if length is None else f" and len({{v}}) <= {length}"
    return Rule(fit, f'{{v}}.__class__ is str and {{v}}.isascii() and "\\0" not in {{v}}{limit}')


def check_text(value: Any) -> None:
    """Raise Misfit for what is no text that every database keeps."""
    if not isinstance(value, str):
        raise Misfit("it takes text")
    if "\0" in value:
        raise Misfit("it holds the character NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Misfit("it holds half of a surrogate pair, which is no character") from None


def fit_any(value: Any) -> Any:
    """What no column tells the type of: text that every database keeps, and numbers that are numbers."""
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, float) and not isfinite(value):
        raise Misfit("it takes finite numbers")
    return value


def fit_bool(value: Any) -> Any:
    """True or False, also as 1 or 0."""
    if isinstance(value, int) and value in (0, 1):
        return value
    raise Misfit("it takes True and False")


def fit_float(value: Any) -> Any:
    """A finite double."""
    if isinstance(value, (int, float, Decimal)):
        try:
            number = float(value)
        except (OverflowError, ValueError):
            raise Misfit("it is beyond the range of a double") from None
        if isfinite(number):
            return number
        raise Misfit("it takes finite numbers")
    raise Misfit("it takes numbers")


def fit_decimal(value: Any) -> Any:
    """A finite number, as it is."""
    if not isinstance(value, (int, float, Decimal)):
        raise Misfit("it takes numbers")
    if not (value.is_finite() if isinstance(value, Decimal) else isinstance(value, int) or isfinite(value)):
        raise Misfit("it takes finite numbers")
    return value


def fit_date(value: Any) -> Any:
    """A day."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise Misfit("it takes dates without a time of day")


def fit_time(value: Any) -> Any:
    """A time of day."""
    if isinstance(value, time) and value.tzinfo is None:
        return value
    raise Misfit("it takes times of day without a zone")


def fit_naive(value: Any) -> Any:
    """A datetime without a zone."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value
    raise Misfit("it takes datetimes without a zone")


def fit_aware(value: Any) -> Any:
    """A datetime with a zone."""
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    raise Misfit("it takes datetimes with a zone")


def fit_interval(value: Any) -> Any:
    """A span that ends between the years 1 and 9999 when it begins in 1970: SQLite keeps it as that moment."""
    if isinstance(value, timedelta) and INTERVAL_MIN <= value <= INTERVAL_MAX:
        return value
    raise Misfit("it takes timedeltas between -1969 and 8029 years")


def fit_bytes(value: Any) -> Any:
    """Bytes."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise Misfit("it takes bytes")


def uuid_of(value: Any) -> UUID:
    """A UUID."""
    if isinstance(value, UUID):
        return value
    raise Misfit("it takes UUIDs")


def uuid_text(value: Any) -> str:
    """The canonical text of a UUID: SQLite compares what was written."""
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise Misfit("it takes texts of UUIDs") from None


def choice(kind: types.Enum, value: Any) -> Any:
    """A member of an Enum, or its name."""
    try:
        known = value in kind._valid_lookup or value in kind.enums  # noqa: SLF001  (has no public form)
    except TypeError:
        known = False
    if known:
        return value
    raise Misfit("it is none of the choices")


INTEGERS = {bits: integer_rule(bits) for _, bits in BITS}
NAIVE, AWARE = Rule(fit_naive), Rule(fit_aware)
INTERVAL = Rule(fit_interval)
RULES: tuple[tuple[type[Any], Rule], ...] = (
    (types.Boolean, Rule(fit_bool, "{v} is True or {v} is False")),
    (types.Float, Rule(fit_float, "{v}.__class__ is float and {v} - {v} == 0.0")),
    (types.NumericCommon, Rule(fit_decimal)),
    (types.Date, Rule(fit_date)),
    (types.Time, Rule(fit_time)),
    (_AbstractInterval, INTERVAL),
    (types.LargeBinary, Rule(fit_bytes, "{v}.__class__ is bytes")),
    (types.NullType, Rule(fit_any, "{v}.__class__ is int")),
)


def canonical_json(value: Any) -> str | None:
    """The one text of a JSON value: sorted keys, no spaces. Refuses what JSON cannot say; None is NULL."""
    if value is None:
        return None
    return written(None if value is types.JSON.NULL else value, "Json", sort_keys=True)


def strict_json(value: Any) -> str:
    """The text of a JSON value for the type `JSON` of SQLAlchemy."""
    return written(value, "JSON", sort_keys=False)


def written(value: Any, column: str, *, sort_keys: bool) -> str:
    """The text of a JSON value. Raises ColumnRefused."""
    try:
        text = json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        why = "it holds half of a surrogate pair, which is no character"
    except (TypeError, ValueError) as cause:
        why = str(cause)
    except RecursionError:
        why = "it is nested too deeply"
    else:
        if "\\u0000" not in text or not NUL_ESCAPE.search(text):
            return text
        why = "it holds the character NUL"
    raise ColumnRefused(column=column, value=shape(value), why=why)
