"""Samples: a few values that a JSON Schema allows, the smallest and the fullest, always the same ones.

They are tried with the steps of an event, of whose code no schema tells anything. A schema with a pattern, whose texts
nobody can invent, is served by the examples of our own types.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from dujiang.contracts.inclusion import definitions, resolved, values_of

if TYPE_CHECKING:
    from dujiang.contracts.inclusion import Schema

__all__ = ["samples"]

MOST = 8
DEPTH_MOST = 6
FORMATS = {
    "date-time": "2026-03-01T08:00:00Z", "date": "2026-03-01", "time": "08:00:00", "duration": "PT1S",
    "uuid": "00000000-0000-4000-8000-000000000000", "decimal": "1", "email": "a@example.org", "uri": "https://example.org/",
}  # fmt: skip
TEXTS = ("0", "1", "a", "A", "AB", "abc", "")


def samples(schema: Schema) -> list[Any]:
    """At most eight values; none if none can be made up."""
    return made(schema, definitions(schema), 0)[:MOST]


def made(schema: Schema, known: dict[str, Schema], depth: int) -> list[Any]:
    """Values of one place."""
    schema = resolved(schema, known)
    if schema is False or depth > DEPTH_MOST:
        return []
    if schema is True:
        return [None]
    if (values := values_of(schema)) is not None:
        return values
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return [value for branch in branches for value in made(branch, known, depth + 1)[:2]]
    kind = schema.get("type")
    if kind == "object":
        return members(schema, known, depth)
    if kind == "array":
        return items(schema, known, depth)
    if kind == "boolean":
        return [True, False]
    if kind in ("integer", "number"):
        return numbers(schema)
    return strings(schema) if kind == "string" else [None]


def members(schema: Schema, known: dict[str, Schema], depth: int) -> list[Any]:
    """Objects: one for each value of the fields, then one with what is required alone."""
    columns = {name: made(each, known, depth + 1) for name, each in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    if any(not column for name, column in columns.items() if name in required):
        return []
    columns = {name: column for name, column in columns.items() if column}
    rows = [
        {
            name: column[0] if value is None and None not in column else value
            for (name, column), value in zip(columns.items(), row, strict=True)
        }
        for row in zip_longest(*(column[:MOST] for column in columns.values()))
    ]
    least = {name: column[0] for name, column in columns.items() if name in required}
    return [*rows[:MOST], *([least] if len(least) < len(columns) or not rows else [])]


def items(schema: Schema, known: dict[str, Schema], depth: int) -> list[Any]:
    """Lists: the shortest, and one of one value more."""
    first = [made(each, known, depth + 1) for each in schema.get("prefixItems", ())]
    if not all(first):
        return []
    head = [column[0] for column in first]
    missing = max(0, schema.get("minItems", 0) - len(head))
    values = made(schema.get("items", True), known, depth + 1)
    if missing and not values:
        return []
    shortest = [*head, *(values[place % len(values)] for place in range(missing))]
    longer = [[*shortest, values[0]]] if values and len(shortest) < schema.get("maxItems", len(shortest) + 1) else []
    return [shortest, *longer]


def numbers(schema: Schema) -> list[Any]:
    """Numbers at the bounds, and near zero."""
    whole, step = schema.get("type") == "integer", schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    beside = [bound + shift for bound, shift in ((low, step), (high, -step)) if bound is not None]
    if low is not None:
        beside += [-(-low // step) * step, (low // step + 1) * step]
    if low is not None and high is not None:
        beside.append((low + high) / 2)
    tried = [0, 1, step, low, high, *beside]
    found = [value for value in tried if value is not None and fits(value, schema)]
    return list(dict.fromkeys(int(value) if whole else value for value in found if not whole or value == int(value)))


def fits(value: float, schema: Schema) -> bool:
    """Whether a number is within the bounds."""
    low, high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    within = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    inside = (low is None or value > low) and (high is None or value < high)
    return bool(within and inside and value % schema.get("multipleOf", value or 1) == 0)


def strings(schema: Schema) -> list[Any]:
    """Texts of the right length and form."""
    told = FORMATS.get(schema.get("format", ""))
    tried = [told] if told is not None else [] if "format" in schema else list(TEXTS)
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    sized = [(text * least if text and len(text) < least else text)[:most] for text in tried]
    return list(dict.fromkeys(text for text in sized if len(text) >= least and matches(text, schema.get("pattern"))))


def matches(text: str, pattern: str | None) -> bool:
    """Whether a text has a pattern; a pattern that Python does not know has none."""
    try:
        return pattern is None or re.search(pattern, text) is not None
    except re.error:
        return False
