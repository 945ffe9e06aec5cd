"""Forms: the JSON Schemas of a type: what it takes, and what is written of it; without the prose.

Pydantic's own schema of what is written leaves open whether a field with a default is there. It always is, and an old
reader that requires the field relies on it, so it is said here. Titles, descriptions and examples are left out: a file
that is reviewed should change when the contract does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from pydantic_core import core_schema

    from dujiang.contracts.inclusion import Schema
    from dujiang.messaging.message import Event

__all__ = ["event_forms", "form_of", "plain", "written_of"]

Mode = Literal["validation", "serialization"]
PROSE = {"title", "description", "examples", "example", "deprecated", "readOnly", "writeOnly"}
# Keywords whose members are named by the user, and are schemas.
NAMED = {"properties", "$defs", "patternProperties"}
NESTED = {"items", "additionalProperties", "propertyNames", "contains", "not"}
LISTED = {"anyOf", "oneOf", "allOf", "prefixItems"}


class Forms(GenerateJsonSchema):
    """Pydantic's generator, with what is known of a value that was written."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,  # noqa: FBT001  (Pydantic's own signature)
    ) -> bool:
        """A written field is there, unless something keeps it out."""
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return not (field.get("serialization_exclude") or field.get("serialization_exclude_if"))
        return super().field_is_required(field, total)


def form_of(hint: Any, mode: Mode) -> Schema:
    """The schema of any type; {} for one that has none."""
    try:
        return plain(TypeAdapter(hint).json_schema(mode=mode, schema_generator=Forms))
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError):
        return {}


def event_forms(event: type[Event]) -> tuple[Schema, Schema]:
    """What a class of an event takes from a payload, and what it writes into one."""
    config = event.model_config
    by_name = bool(config.get("validate_by_name") or config.get("populate_by_name"))
    aliased = bool(config.get("serialize_by_alias"))
    reads = event.model_json_schema(mode="validation", by_alias=aliased or not by_name, schema_generator=Forms)
    writes = event.model_json_schema(mode="serialization", by_alias=aliased, schema_generator=Forms)
    return plain(reads), plain(writes)


def written_of(reads: Schema) -> Schema:
    """What is written of a type of which this is read, where nothing but the defaults differs."""
    if not isinstance(reads, dict):
        return reads
    made = {word: written_below(word, value) for word, value in reads.items()}
    if made.get("properties"):
        made["required"] = list(made["properties"])
    return made


def written_below(word: str, value: Any) -> Any:
    """The same for the value of a keyword."""
    if word in NAMED:
        return {name: written_of(schema) for name, schema in value.items()}
    if word in LISTED:
        return [written_of(schema) for schema in value]
    return written_of(value) if word in NESTED else value


def plain(schema: Any) -> Any:
    """The schema without prose and marks."""
    if not isinstance(schema, dict):
        return schema
    kept = {word: value for word, value in schema.items() if word not in PROSE and not word.startswith("x-dujiang-")}
    return {word: plain_below(word, value) for word, value in kept.items()}


def plain_below(word: str, value: Any) -> Any:
    """The same for the value of a keyword."""
    if word in NAMED:
        return {name: plain(schema) for name, schema in value.items()}
    if word in LISTED:
        return [plain(schema) for schema in value]
    return plain(value) if word in NESTED else value
