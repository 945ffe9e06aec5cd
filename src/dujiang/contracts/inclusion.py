"""Inclusion: whether everything that is written under one JSON Schema is read under another.

    writer's schema ──► every value it allows ──► is it a value of the reader's schema?   no: where, and why

Both directions of a change are this question: an event stored by the old class and read by the new one, an event written
by the new class and read by a process of the old one, a request of an old client, an answer to it.

The answer errs on one side alone. A yes is a proof: every construct that is not understood must be the same text on both
sides. A no may be too strict, as for a union that is only taken apart in another way; who knows better accepts it.
Comparing the two texts instead was refused: it cannot tell an added optional field from a removed one.

A writer is taken at its word in one point where JSON Schema says less: a model without `additionalProperties` ignores what
it does not know when it reads, and writes nothing but its fields.

What no schema says (a validator's code, a stripped blank) is not seen here; messaging/contracts.py tries what is stored.
tests/unit/contracts/test_inclusion.py makes models by chance, and reads with one what the other wrote.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Misfit", "Schema", "misfits", "said"]

# A JSON Schema as a dict; True and False are schemas too.
Schema: TypeAlias = Any

SILENT = {
    "title", "description", "examples", "example", "default", "deprecated", "readOnly", "writeOnly", "$defs", "discriminator",
}  # fmt: skip
KNOWN = SILENT | {
    "type", "enum", "const", "anyOf", "oneOf", "$ref",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "format",
    "items", "prefixItems", "minItems", "maxItems", "uniqueItems",
    "properties", "required", "additionalProperties", "minProperties", "maxProperties",
}  # fmt: skip
AMOUNT = re.compile(r"\^-\?\(0\|\[1-9\]\[0-9\]\*\)(?:\(\\\.\[0-9\]\{1,(\d)\}\)\?)?\$")
SHOWN = 6


@dataclass(frozen=True)
class Misfit:
    """One place where something that is written would not be read.

    Attributes:
        path: The field: `lines[].sku`; empty = the whole.
        kind: `required`, `extra`, or `form`.
        why: In words.
    """

    path: str
    kind: str
    why: str


def misfits(writer: Schema, reader: Schema, *, tolerant: bool = False) -> list[Misfit]:
    """Where something that is written under `writer` is not read under `reader`; empty = everything is read.

    Args:
        writer: Its own `$defs` inside.
        reader: Its own `$defs` inside.
        tolerant: The reader skips members that it does not know, whatever its schema says of them.
    """
    return Inclusion(definitions(writer), definitions(reader), tolerant=tolerant).fit(writer, reader, "")


class Inclusion:
    """One comparison.

    Args:
        written: The definitions to which the writer's references lead.
        read: Those of the reader.
        tolerant: See `misfits`.
    """

    def __init__(self, written: dict[str, Schema], read: dict[str, Schema], *, tolerant: bool) -> None:
        self._written = written
        self._read = read
        self._tolerant = tolerant
        self._begun: set[tuple[str, str]] = set()

    def fit(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        """The misfits of one place and below it."""
        pair = (json.dumps(writer, sort_keys=True), json.dumps(reader, sort_keys=True))
        if pair in self._begun:  # A type that holds itself: what is being proved may be assumed.
            return []
        self._begun.add(pair)
        try:
            return self._fit(resolved(writer, self._written), resolved(reader, self._read), path)
        finally:
            self._begun.discard(pair)

    def _fit(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        if writer is False or not asserts(reader):
            return []
        if reader is False:
            return [Misfit(path, "form", "nothing is taken here")]
        writer = {} if writer is True else writer
        if strange := self._strange(writer, reader):
            return [Misfit(path, "form", f"`{strange}` is another, and it cannot be told what that means")]
        if "anyOf" in writer or "oneOf" in writer:
            branches = writer.get("anyOf") or writer["oneOf"]
            return distinct([found for branch in branches for found in self.fit(branch, reader, path)])
        if isinstance(writer.get("type"), list):
            split = [{**writer, "type": one} for one in writer["type"]]
            return distinct([found for branch in split for found in self._fit(branch, reader, path)])
        if "anyOf" in reader or "oneOf" in reader:
            return self._fit_one_of(writer, reader, path)
        if isinstance(reader.get("type"), list):
            return self._fit_one_of(writer, {"anyOf": [{**reader, "type": one} for one in reader["type"]]}, path)
        values = values_of(writer)
        if values is not None:
            lost = [value for value in values if not takes(value, reader)]
            why = f"{said({'enum': lost})} is written, and not among {said(reader)}"
            return [Misfit(path, "form", why)] if lost else []
        if values_of(reader) is not None:
            return [Misfit(path, "form", f"{said(writer)} is written, and only {said(reader)} is read")]
        return self._fit_type(writer, reader, path)

    def _fit_one_of(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        """A reader's union: one of its members must take all of the writer's."""
        tag = (reader.get("discriminator") or {}).get("propertyName")
        if tag is not None and tag not in writer.get("required", ()):
            return [Misfit(inside(path, tag), "required", "it tells which kind it is, and may be missing")]
        values = values_of(writer)
        branches = reader.get("anyOf") or reader["oneOf"]
        if values is not None and len(values) > 1:
            return distinct([found for value in values for found in self._fit({"const": value}, reader, path)])
        found = [self.fit(writer, branch, path) for branch in branches]
        if not all(found):
            return []
        near = [each for branch, each in zip(branches, found, strict=True) if self._alike(writer, branch)]
        if len(near) == 1:
            return near[0]
        return [Misfit(path, "form", f"{said(writer)} is written, and {said(reader)} is read")]

    def _alike(self, writer: Schema, branch: Schema) -> bool:
        found = resolved(branch, self._read)
        return isinstance(found, dict) and writer.get("type") == found.get("type")

    def _strange(self, writer: dict[str, Any], reader: dict[str, Any]) -> str:
        """A keyword of the reader that nothing here understands and that the writer does not have in the same words."""
        beyond = set(reader) - KNOWN
        if "oneOf" in reader and "discriminator" not in reader:
            beyond.add("oneOf")  # Which member is chosen is code.
        for word in sorted(beyond):
            same = writer.get(word) == reader[word]
            refers = '"$ref"' in json.dumps(reader[word])
            if not word.startswith("x-") and not (same and (not refers or self._written == self._read)):
                return word
        return ""

    def _fit_type(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        kind, wanted = writer.get("type"), reader.get("type")
        if wanted is not None and kind != wanted and (kind, wanted) != ("integer", "number"):
            return [Misfit(path, "form", f"{said(writer)} is written, and {said(reader)} is read")]
        if kind in ("integer", "number"):
            whole = kind == "integer"
            found = numbers(writer, reader, path, whole=whole)
        elif kind == "string":
            found = texts(writer, reader, path)
        elif kind == "array":
            found = [*sizes(writer, reader, path, "Items"), *self._fit_items(writer, reader, path)]
        elif kind == "object":
            found = self._fit_members(writer, reader, path)
        else:
            limits = set(reader) - SILENT - {"type"} if kind is None else ()
            found = [Misfit(path, "form", f"anything is written, and {said(reader)} is read")] if limits else []
        return found

    def _fit_items(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        found: list[Misfit] = []
        if reader.get("uniqueItems") and not writer.get("uniqueItems"):
            found.append(Misfit(path, "form", "an item may be there twice"))
        ours, theirs = writer.get("prefixItems", []), reader.get("prefixItems", [])
        most = writer.get("maxItems", math.inf)
        for place in range(max(len(ours), len(theirs))):
            if place < most:
                item = ours[place] if place < len(ours) else writer.get("items", True)
                wanted = theirs[place] if place < len(theirs) else reader.get("items", True)
                found += self.fit(item, wanted, f"{path}[{place}]")
        if most > max(len(ours), len(theirs)):
            found += self.fit(writer.get("items", True), reader.get("items", True), f"{path}[]")
        return found

    def _fit_members(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        ours, theirs = writer.get("properties", {}), reader.get("properties", {})
        rest = rest_of(writer)
        unknown = True if self._tolerant else reader.get("additionalProperties", True)
        found = []
        for name in sorted(set(reader.get("required", ())) - set(writer.get("required", ()))):
            lost = "and it is not written" if name not in ours and rest is False else "and it may be missing"
            found.append(Misfit(inside(path, name), "required", f"it is required, {lost}"))
        for name, schema in sorted(ours.items()):
            if name in theirs:
                found += self.fit(schema, theirs[name], inside(path, name))
            elif unknown is False:
                found.append(Misfit(inside(path, name), "extra", "it is written, and unknown fields are refused"))
            else:
                found += self.fit(schema, unknown, inside(path, name))
        if rest is not False:
            for name in sorted(set(theirs) - set(ours)):
                found += self.fit(rest, theirs[name], inside(path, name))
            found += self.fit(rest, unknown, inside(path, "*"))
        return [*found, *self._fit_count(writer, reader, path, closed=rest is False)]

    def _fit_count(self, writer: Schema, reader: Schema, path: str, *, closed: bool) -> list[Misfit]:
        least = max(writer.get("minProperties", 0), len(writer.get("required", ())))
        most = writer.get("maxProperties", len(writer.get("properties", {})) if closed else math.inf)
        bounds = {"minProperties": least, "maxProperties": most}
        return sizes(bounds, reader, path, "Properties")


def definitions(schema: Schema) -> dict[str, Schema]:
    """The definitions of a schema."""
    found: dict[str, Schema] = schema.get("$defs", {}) if isinstance(schema, dict) else {}
    return found


def resolved(schema: Schema, known: dict[str, Schema]) -> Schema:
    """The schema behind references, with what stands beside them."""
    while isinstance(schema, dict) and "$ref" in schema:
        beside = {word: value for word, value in schema.items() if word != "$ref"}
        target = known[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **beside} if isinstance(target, dict) else target
    return schema


def asserts(schema: Schema) -> bool:
    """Whether a schema refuses anything."""
    if isinstance(schema, bool):
        return not schema
    return bool({word for word in schema if word not in SILENT and not word.startswith("x-")})


def rest_of(writer: Schema) -> Schema:
    """What a writer puts under names that are not among its properties; False = nothing."""
    if "patternProperties" in writer:
        return {"anyOf": list(writer["patternProperties"].values())}
    return writer.get("additionalProperties", "properties" not in writer)


def values_of(schema: Schema) -> list[Any] | None:
    """The few values that a schema allows, or None."""
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    return [None] if schema.get("type") == "null" else None


def takes(value: Any, reader: Schema) -> bool:
    """Whether one plain value is read; False also for what cannot be told."""
    wanted = values_of(reader)
    if wanted is not None:
        return any(type(value) is type(each) and value == each for each in wanted)
    if not asserts(reader):
        return True
    if isinstance(value, bool):
        return bool(reader.get("type") == "boolean")
    if isinstance(value, (int, float)):
        kind = "integer" if isinstance(value, int) else "number"
        exact = {"type": kind, "minimum": value, "maximum": value}
        fits = reader.get("type") in (kind, "number") and "multipleOf" not in reader
        return fits and not numbers(exact, reader, "", whole=kind == "integer")
    if isinstance(value, str):
        plain = reader.get("type") == "string" and "pattern" not in reader and "format" not in reader
        return plain and not sizes({"minLength": len(value), "maxLength": len(value)}, reader, "", "Length")
    return False


def numbers(writer: Schema, reader: Schema, path: str, *, whole: bool) -> list[Misfit]:
    """Bounds of numbers."""
    found = []
    under = lowest(reader, whole=whole) > lowest(writer, whole=whole)
    if under or highest(reader, whole=whole) < highest(writer, whole=whole):
        found.append(Misfit(path, "form", f"{said(writer)} is written, and {said(reader)} is read"))
    if "multipleOf" in reader and reader["multipleOf"] != writer.get("multipleOf"):
        found.append(Misfit(path, "form", f"only multiples of {reader['multipleOf']} are read"))
    return found


def lowest(schema: Schema, *, whole: bool) -> tuple[float, bool]:
    """The lower bound, and whether it is itself excluded."""
    bounds = [(-math.inf, False)]
    if "minimum" in schema:
        bounds.append((math.ceil(schema["minimum"]) if whole else schema["minimum"], False))
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"]
        bounds.append((math.floor(low) + 1, False) if whole else (low, True))
    return max(bounds)


def highest(schema: Schema, *, whole: bool) -> tuple[float, bool]:
    """The upper bound, and whether it is itself included."""
    bounds = [(math.inf, True)]
    if "maximum" in schema:
        bounds.append((math.floor(schema["maximum"]) if whole else schema["maximum"], True))
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"]
        bounds.append((math.ceil(high) - 1, True) if whole else (high, False))
    return min(bounds)


def texts(writer: Schema, reader: Schema, path: str) -> list[Misfit]:
    """Length, pattern and format of texts."""
    found = sizes(writer, reader, path, "Length")
    one, other = decimals(writer), decimals(reader)
    if one is not None and other is not None and one != other:
        lost = "amounts lose decimals" if one > other else f"amounts of 2**63 / 10**{other} and more do not fit"
        return [Misfit(path, "form", f"an amount of {one} decimals is written, and one of {other} is read: {lost}")]
    for word in ("pattern", "format"):
        if word in reader and writer.get(word) != reader[word]:
            return [Misfit(path, "form", f"{said(writer)} is written, and {said(reader)} is read")]
    return found


def decimals(schema: Schema) -> int | None:
    """The scale of an amount of money, or None."""
    match = AMOUNT.fullmatch(schema.get("pattern", "")) if schema.get("format") == "decimal" else None
    return None if match is None else int(match[1] or 0)


def sizes(writer: Schema, reader: Schema, path: str, word: str) -> list[Misfit]:
    """Bounds of a length or a count: `minLength`, `maxItems`, ..."""
    least, most = f"min{word}", f"max{word}"
    found = []
    if reader.get(least, 0) > writer.get(least, 0):
        why = f"{least} {writer.get(least, 0)} is written, and {reader[least]} is wanted"
        found.append(Misfit(path, "form", why))
    if reader.get(most, math.inf) < writer.get(most, math.inf):
        why = f"{most} {writer.get(most, 'without end')} is written, and {reader[most]} is allowed"
        found.append(Misfit(path, "form", why))
    return found


def inside(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if path else name


def distinct(found: list[Misfit]) -> list[Misfit]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(found))


def said(schema: Schema) -> str:
    """A schema in a few words, for people."""
    if not isinstance(schema, dict) or not asserts(schema):
        return "anything"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if (values := values_of(schema)) is not None:
        shown = ", ".join(json.dumps(value) for value in values[:SHOWN])
        return shown + (", ..." if len(values) > SHOWN else "")
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(said(branch) for branch in branches))
    words = [str(schema.get("format") or schema.get("type", "anything"))]
    if schema.get("type") == "array":
        words.append(f"of {said(schema.get('items', True))}")
    if "pattern" in schema and "format" not in schema:
        words.append(f"like {schema['pattern']}")
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    words += [f"{sign} {schema[word]}" for word, sign in signs.items() if word in schema]
    return " ".join(words)
