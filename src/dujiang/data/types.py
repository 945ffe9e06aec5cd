"""Field types for bodies, events and views: ids, money, instants, JSON; exact on the wire and in Python.

    type      in Python      in JSON                 takes from JSON
    Id        int            "7214893750123"         decimal string, or integer; 0 .. 2**63-1
    Money     Decimal        "199.98"                decimal string, or a number that survived as written
    Instant   datetime, UTC  "2026-03-01T08:00:00Z"  RFC 3339 text with a zone
    Json      any JSON       as it is                as it is; no NaN, no infinity

An id travels as a string because a JavaScript reader rounds integers above 2**53. Money travels as a string because a
JSON number is a double for most readers: 0.1 + 0.2 sent as a number is 0.30000000000000004, and no rule can say which
cent was meant. A number is therefore taken only if its shortest form has at most 15 significant digits (every decimal
of that length survives a double unharmed) and no more decimals than the scale; otherwise the answer is the error type
`use_decimal_string`. These rules hold in strict mode, and are the same for JSON and for Python values, so a body
that was parsed before it was validated means the same.

Another scale than 2 is written `Annotated[Decimal, Scale(4)]`. The shorter `Money(4)` was rejected: no type checker
takes a call in an annotation.

A choice is `typing.Literal["pending", "reserved"]`: an alias of it would be strange to the tools that look for Literal.

Columns of the same names, and `Choice` and `Key`, are in data/columns.py. tests/unit/data/test_types.py proves each line
of the table.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

__all__ = ["Id", "Instant", "Json", "Model", "Money", "Scale"]

INTEGER_MAX = 2**63 - 1

# The number of digits that every decimal keeps on its way through a double and back.
DIGITS_KEPT = 15

# Wide enough for every 63-bit amount; independent of the context that the caller's code may have set.
EXACT = Context(prec=40)

ID_TEXT = re.compile(r"(?:0|[1-9][0-9]*)")
MONEY_TEXT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.([0-9]+))?")
MONEY_TEXT_MAX = 64
INSTANT_TEXT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,6}))?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


class Model(BaseModel):
    """The base of bodies and views: strict, frozen, and without unknown fields.

    Strict means no coercion between JSON types: `"5"` is no int, `1` is no bool.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class IdField:
    """Pydantic's view of `Id`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            read_id, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$", "examples": ["7214893750123"]}


@dataclass(frozen=True)
class Scale:
    """The number of decimals of an amount: `Annotated[Decimal, Scale(4)]`.

    Args:
        decimals: From 0 to 9. The amount counted in its smallest unit must fit in 63 bits and a sign.
    """

    decimals: int

    def __post_init__(self) -> None:
        if type(self.decimals) is not int or not 0 <= self.decimals <= 9:
            raise ValueError(f"a scale is an integer from 0 to 9, not {self.decimals!r}")

    def read(self, value: object) -> Decimal:
        """The amount that `value` says, with exactly `decimals` decimals. Raises Pydantic's errors."""
        if isinstance(value, str):
            amount = self._from_text(value)
        elif isinstance(value, Decimal):
            amount = value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            amount = self._from_number(value + 0)  # A plain number, should it be a subclass's.
        else:
            raise PydanticKnownError("decimal_type")
        return self.exact(amount)

    def exact(self, amount: Decimal) -> Decimal:
        """`amount` with exactly `decimals` decimals; refuses what would be rounded, is not finite, or is too large."""
        if not amount.is_finite():
            raise PydanticKnownError("finite_number")
        if amount.adjusted() > 19:
            raise self._out_of_range()
        unit = Decimal(1).scaleb(-self.decimals)
        exact = amount if amount.as_tuple().exponent == -self.decimals else amount.quantize(unit, context=EXACT)
        if exact != amount:
            raise self._too_many_decimals()
        if abs(exact.scaleb(self.decimals, context=EXACT)) > INTEGER_MAX:
            raise self._out_of_range()
        # A zero has no sign: "-0.00" would be a second text of the same amount.
        return exact or exact.copy_abs()

    def text(self, amount: Decimal) -> str:
        """The canonical text: plain digits, exactly `decimals` decimals."""
        return format(self.exact(amount), "f")

    def _from_text(self, text: str) -> Decimal:
        if len(text) > MONEY_TEXT_MAX or (match := MONEY_TEXT.fullmatch(text)) is None:
            raise PydanticKnownError("decimal_parsing")
        if match[1] and len(match[1]) > self.decimals:
            raise self._too_many_decimals()
        return Decimal(text)

    def _from_number(self, number: float) -> Decimal:
        if not abs(number) < math.inf:  # Not math.isfinite: an integer may be too large for it.
            raise PydanticKnownError("finite_number")
        if abs(number) > INTEGER_MAX:
            raise self._out_of_range()
        amount = Decimal(repr(number)).normalize(EXACT)
        _, digits, exponent = amount.as_tuple()
        if len(digits) > DIGITS_KEPT or -int(exponent) > self.decimals:
            raise PydanticCustomError(
                "use_decimal_string",
                'A number cannot say this amount exactly; send it as a string, such as "{example}"',
                {"example": format(Decimal(100).quantize(Decimal(1).scaleb(-self.decimals)), "f")},
            )
        return amount

    def _too_many_decimals(self) -> PydanticKnownError:
        return PydanticKnownError("decimal_max_places", {"decimal_places": self.decimals})

    def _out_of_range(self) -> PydanticCustomError:
        largest = format(Decimal(INTEGER_MAX).scaleb(-self.decimals, context=EXACT), "f")
        return PydanticCustomError(
            "out_of_range", "Amount should lie between -{largest} and {largest}", {"largest": largest}
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self.text, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        decimals = rf"(\.[0-9]{{1,{self.decimals}}})?" if self.decimals else ""
        return {
            "type": "string",
            "format": "decimal",
            "pattern": f"^-?(0|[1-9][0-9]*){decimals}$",
            "examples": [self.text(Decimal(100))],
        }


@dataclass(frozen=True)
class InstantField:
    """Pydantic's view of `Instant`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            read_instant,
            serialization=core_schema.plain_serializer_function_ser_schema(
                instant_text, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time", "examples": ["2026-03-01T08:00:00Z"]}


def read_id(value: object) -> int:
    """The id that `value` says: an integer, or its canonical decimal string. Raises Pydantic's errors."""
    if isinstance(value, str):
        if ID_TEXT.fullmatch(value) is None:
            raise PydanticKnownError("int_parsing")
        # The length is looked at first: Python refuses to read very long numbers with an error of its own.
        number = int(value) if len(value) <= 19 else INTEGER_MAX + 1
    elif isinstance(value, int) and not isinstance(value, bool):
        number = int(value)
    else:
        raise PydanticKnownError("int_type")
    if not 0 <= number <= INTEGER_MAX:
        raise PydanticCustomError("out_of_range", "Id should lie between 0 and {largest}", {"largest": INTEGER_MAX})
    return number


def read_instant(value: object) -> datetime:
    """The instant that `value` says, in UTC. Raises Pydantic's errors."""
    if isinstance(value, str):
        moment = instant_of_text(value)
    elif isinstance(value, datetime):
        moment = value
    else:
        raise PydanticKnownError("datetime_type")
    if moment.utcoffset() is None:
        raise PydanticCustomError("timezone_required", "Instant should name its zone: Z, or an offset such as +08:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("out_of_range", "Instant should lie in the years 1 to 9999, UTC") from None


def instant_of_text(text: str) -> datetime:
    """The datetime of an RFC 3339 text; naive if the text names no zone."""
    match = INSTANT_TEXT.fullmatch(text)
    if match is None:
        raise PydanticKnownError("datetime_parsing", {"error": "not RFC 3339 with at most 6 decimals of a second"})
    day, clock, decimals, zone = match.groups()
    try:
        return datetime.fromisoformat(f"{day}T{clock}.{decimals or '0':0<6}{(zone or '').upper()}")
    except ValueError as cause:
        raise PydanticKnownError("datetime_parsing", {"error": str(cause)}) from None


def instant_text(moment: datetime) -> str:
    """The canonical text of an instant: UTC, ending in Z, microseconds only if there are any."""
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def finite(value: JsonValue) -> JsonValue:
    """`value`, if it holds no NaN and no infinity: JSON has no word for them."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticKnownError("finite_number")
    elif isinstance(value, list):
        for member in value:
            finite(member)
    elif isinstance(value, dict):
        for member in value.values():
            finite(member)
    return value


Id: TypeAlias = Annotated[int, IdField()]
"""A 63-bit id."""

Money: TypeAlias = Annotated[Decimal, Scale(2)]
"""An amount with 2 decimals."""

Instant: TypeAlias = Annotated[datetime, InstantField()]
"""A point in time: UTC, microseconds."""

Json: TypeAlias = Annotated[JsonValue, AfterValidator(finite)]
"""Any JSON value."""
