"""Schema: JSON Schema as the generator wants it, and where in a value an id stands.

The schema of a request is the one that OpenAPI publishes. Two things are taken away and two are added. Away go the
examples that a *type* has of itself (an `Id` is "7214893750123" on every documentation page, and nobody's order has that
number), and the forms in which OpenAPI writes examples beside `examples`. Added are the mark `x-id` on ids, and, to keys
that have no example, the examples of the field of the same name elsewhere in the app.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import TypeAdapter

from dujiang.data.types import Id, Instant, Scale
from dujiang.drill.workload.names import is_key, same, singular, stem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Pointer", "Schema", "Slot", "examples_by_name", "lent", "prepared", "reachable", "slots_in"]

Schema: TypeAlias = dict[str, Any]
Pointer: TypeAlias = tuple[str | int, ...]

ID = TypeAdapter(Id).json_schema()
INSTANT = TypeAdapter(Instant).json_schema()
OF_TYPES = (ID["examples"], INSTANT["examples"], *([Scale(each).text(Decimal(100))] for each in range(10)))

MAPS = ("properties", "patternProperties")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
ONES = ("items", "additionalProperties", "propertyNames")
ALTERNATIVES = ("anyOf", "oneOf", "allOf")
PLACES_MAX = 12


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place in a request that is filled from what earlier answers said.

    Attributes:
        at: Keys and indexes that lead to it.
        stem: What it names.
        typed: Whether its type says that it is an id; otherwise only its name does.
        exampled: Whether its author gave examples.
        own: Whether it names the very thing that the request is to make.
    """

    at: Pointer
    stem: str
    typed: bool = False
    exampled: bool = False
    own: bool = False

    @property
    def label(self) -> str:
        """The place in words, without indexes, so that one draw has one name in every list."""
        return ".".join(part for part in self.at if isinstance(part, str))


def prepared(schema: Any) -> Any:
    """A copy of a schema as the generator wants it."""
    if not isinstance(schema, dict):
        return schema
    made: Schema = {}
    for word, value in schema.items():
        if word in MAPS and isinstance(value, dict):
            made[word] = {name: prepared(each) for name, each in value.items()}
        elif word in LISTS and isinstance(value, list):
            made[word] = [prepared(each) for each in value]
        elif word in ONES:
            made[word] = prepared(value)
        elif word not in ("title", "description", "example", "examples"):
            made[word] = value
    examples = examples_of(schema)
    if examples and not (examples in OF_TYPES and {"pattern", "format"} & schema.keys()):
        made["examples"] = examples
    if schema.get("type") == "string" and schema.get("pattern") == ID["pattern"]:
        made["x-id"] = True
    return made


def examples_of(schema: Schema) -> list[Any]:
    """The examples that stand at a schema, a parameter or a body, in any of the forms that OpenAPI knows."""
    found = schema.get("examples")
    if isinstance(found, dict):
        found = [each["value"] for each in found.values() if isinstance(each, dict) and "value" in each]
    many = list(found) if isinstance(found, list) else []
    return [schema["example"], *many] if "example" in schema else many


def reachable(schema: Schema, known: Mapping[str, Schema]) -> dict[str, Schema]:
    """The schemas that a schema refers to, directly or not, by reference."""
    found: dict[str, Schema] = {}
    waiting = [schema]
    while waiting:
        for _, node in nodes(waiting.pop(), ""):
            ref = node.get("$ref")
            if isinstance(ref, str) and ref in known and ref not in found:
                found[ref] = known[ref]
                waiting.append(known[ref])
    return found


def nodes(schema: Any, name: str) -> Iterator[tuple[str, Schema]]:
    """Every schema inside a schema with the name of the field that it stands for; references are not followed."""
    if not isinstance(schema, dict):
        return
    yield name, schema
    for word in MAPS:
        for field, each in schema.get(word, {}).items():
            yield from nodes(each, field)
    for word in LISTS:
        for each in schema.get(word, ()):
            yield from nodes(each, singular(name) if word == "prefixItems" else name)
    for word in ONES:
        yield from nodes(schema.get(word), singular(name))


def examples_by_name(schemas: Mapping[Any, Schema]) -> dict[str, list[Any]]:
    """The first examples that a key of each stem has anywhere in the app."""
    found: dict[str, list[Any]] = {}
    for schema in schemas.values():
        for name, node in nodes(schema, ""):
            plain = [each for each in node.get("examples", ()) if type(each) in (str, int)]
            if is_key(name) and plain:
                found.setdefault(stem(name), plain)
    return found


def lent(schema: Any, examples: Mapping[str, list[Any]], keys: frozenset[str], name: str = "") -> None:
    """Give keys that have no examples those of the same name; `schema` is changed."""
    for field, node in list(nodes(schema, name)):
        kind = node.get("type")
        if kind not in ("string", "integer") or node.keys() & {"examples", "enum", "const", "x-id"}:
            continue
        if is_key(field) or field in keys:
            fitting = next((examples[known] for known in examples if same(stem(field), known)), [])
            fitting = [each for each in fitting if isinstance(each, str) == (kind == "string")]
            if fitting:
                node["examples"] = fitting


class Walk:
    """Finds the slots of one value.

    Args:
        refs: Schemas by reference.
        holder: What holds the fields at a place, for bare ids.
    """

    def __init__(self, refs: Mapping[str, Schema], holder: Callable[[Pointer], str]) -> None:
        self._refs = refs
        self._holder = holder

    def slots(self, value: Any, schemas: list[Schema], at: Pointer, *, listed: bool = False) -> Iterator[Slot]:
        """The slots of a value that one of `schemas` describes; `listed`: it is in a list that has examples."""
        found = list(self._flat(schemas))
        exampled = listed or any("examples" in each for each in found)
        if isinstance(value, dict):
            for key, member in value.items():
                yield from self.slots(member, [each for s in found for each in under(s, key)], (*at, key))
        elif isinstance(value, list):
            for place, member in enumerate(value):
                members = [each for s in found for each in inner(s, place)]
                yield from self.slots(member, members, (*at, place), listed=exampled)
        elif type(value) in (str, int) and not any("enum" in each or "const" in each for each in found):
            typed = any(each.get("x-id") or str(each.get("format", "")).startswith("uuid") for each in found)
            name = field_of(at)
            if typed or at[0] == "path" or is_key(name):
                yield Slot(at=at, stem=stem(name, self._holder(at)), typed=typed, exampled=exampled)

    def _flat(self, schemas: list[Schema]) -> Iterator[Schema]:
        waiting, seen = list(schemas), set()
        while waiting:
            schema = waiting.pop(0)
            ref = str(schema.get("$ref", ""))
            if ref in self._refs and ref not in seen:
                seen.add(ref)
                waiting.append(self._refs[ref])
            yield schema
            waiting += [each for word in ALTERNATIVES for each in schema.get(word, ()) if isinstance(each, dict)]


def under(schema: Schema, key: str) -> Iterator[Schema]:
    """What a schema says of one property."""
    for found in (schema.get("properties", {}).get(key), schema.get("additionalProperties")):
        if isinstance(found, dict):
            yield found
            return


def inner(schema: Schema, place: int) -> Iterator[Schema]:
    """What a schema says of one member of a list."""
    first = schema.get("prefixItems", ())
    found = first[place] if place < len(first) else schema.get("items")
    if isinstance(found, dict):
        yield found


def field_of(at: Pointer) -> str:
    """The name of the field at a place; a member of a list has its list's name in the singular."""
    for back, part in enumerate(reversed(at)):
        if isinstance(part, str):
            return singular(part) if back else part
    return ""


def slots_in(
    value: Any, schema: Schema, refs: Mapping[str, Schema], holder: Callable[[Pointer], str]
) -> tuple[Slot, ...]:
    """The places in a value that earlier answers may fill; of very many the first twelve."""
    return tuple(Walk(refs, holder).slots(value, [schema], ()))[:PLACES_MAX]
