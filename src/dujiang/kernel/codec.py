"""Codec: reads a type from JSON and writes it, with one validation and one serialisation.

    bytes --> strict.check                   --> Pydantic's validate_json --> value
              BadBody: what JSON or we forbid    InvalidBody: what the type forbids

The bytes are parsed twice on purpose: Pydantic parses its own copy in Rust, faster than it would read Python objects,
and only so do its strict rules for JSON hold (a date is a string there). Why its parser alone is not enough stands in
kernel/strict.py. The flat bodies that most requests have are spared the first time: where the bytes rule out all else
(`plain`), only a key could stand twice, and then there are more colons than fields that were set. Where the type is a
closed model of texts, integers and booleans, even fewer bytes need a look (`plain_scalars`).

Unknown fields are refused and types are not coerced, unless a model's own config, or a field's own `strict`, says
otherwise. So a type's validator is built again from its schema, with our defaults filled in where it is silent. Rejected:
Pydantic's runtime arguments `strict` and `extra`, because they overrule such a model (and typed dictionaries overrule
them), and cost a fourth of the validation of a small body; a derived model per body, because its values would not be equal
to the user's own.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from json import JSONEncoder
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from jiter import LosslessFloat, from_json
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaValidator

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.problem import UNKNOWN, Problem, problems_of
from dujiang.kernel.strict import BadBody, check, parse, plain, plain_scalars, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "BadBody",
    "Codec",
    "InvalidBody",
    "Problem",
    "WrongAnswer",
    "check",
    "codec_of",
    "decode",
    "encode",
    "fingerprint",
]

T = TypeVar("T")

PROBLEMS_LOOKED_AT_MAX = 1000


@dataclass(eq=False, kw_only=True)
class InvalidBody(DujiangError):
    """The request can be read, but its values are not what this operation takes.

    Attributes:
        problems: The first 100 problems; a single one without a place if there are more than 1,000.
        count: How many there are.

    `code` is the code that all problems share; if they differ, it is `invalid_body`.
    """

    code = "invalid_body"
    move = "fix"
    status = 422
    cure = "change what `errors` lists, each by its message"

    problems: tuple[Problem, ...]
    count: int

    def __post_init__(self) -> None:
        codes = {problem.code for problem in self.problems}
        if len(codes) == 1:
            vars(self)["code"] = codes.pop()

    @classmethod
    def of(cls, error: ValidationError, *, at: tuple[str, ...] = ("body",), document: Any = UNKNOWN) -> InvalidBody:
        """The error for what Pydantic found.

        Args:
            error: Pydantic's error.
            at: Which part of the request was validated, and the place inside it: `("path", "order_id")`.
            document: What was validated, parsed; UNKNOWN when it is not JSON.
        """
        source, *inside = at
        count = error.error_count()
        if count > PROBLEMS_LOOKED_AT_MAX:
            # Pydantic describes all or none, and a body of 1 MiB can hold enough to stop the loop for a second.
            message = f"{count} values are wrong, too many to list; send fewer at once"
            return cls(problems=(Problem("", "too_many_problems", message, source),), count=count)
        found = error.errors(include_url=False)
        if inside:
            found = [{**each, "loc": (*inside, *each["loc"])} for each in found]
        return cls(problems=problems_of(found, document, source), count=count)

    @property
    def detail(self) -> str:
        """The first three problems, and how many more there are."""
        said = "; ".join(str(problem) for problem in self.problems[:3])
        return said if len(self.problems) <= 3 else f"{said}; and {self.count - 3} more"


@dataclass(eq=False, kw_only=True)
class WrongAnswer(DujiangError):
    """A handler returned something else than it declares."""

    code = "wrong_answer"
    move = "report"
    says = "the returned {kind} is not the declared type: {why}"
    cure = "return the declared type, or declare what is returned"

    kind: str
    why: str


class Codec(Generic[T]):
    """Reads and writes one type: one validation, one serialisation.

    Args:
        source: The type, or a TypeAdapter of it.
    """

    __slots__ = ("_dump", "_plain", "_validate", "adapter")

    def __init__(self, source: type[T] | TypeAdapter[T]) -> None:
        adapter = source if isinstance(source, TypeAdapter) else TypeAdapter(source)
        adapter.rebuild()  # does nothing unless the type waited for a forward reference
        self.adapter: TypeAdapter[T] = adapter
        self._validate: Callable[[bytes], T] = strict_validate(adapter)
        self._plain = plain_of(adapter.core_schema)
        self._dump: Callable[..., bytes] = adapter.serializer.to_json

    def __repr__(self) -> str:
        return f"<Codec {self.adapter!r}>"

    def decode(self, body: bytes) -> T:
        """The value in `body`. Raises BadBody (not acceptable JSON) or InvalidBody (not this type)."""
        certain = self._plain(body)
        document = UNKNOWN if certain else parse(body)
        try:
            value = self._validate(body)
        except ValidationError as cause:
            raise InvalidBody.of(cause, document=parse(body) if certain else document) from None
        # Texts hold colons too; then the document is looked at after all.
        if certain and body.count(b":") != len(value.__pydantic_fields_set__):  # type: ignore[attr-defined]
            parse(body)
        return value

    def encode(self, value: T) -> bytes:
        """The JSON of `value`, by alias, as OpenAPI describes it. Raises WrongAnswer if it is not of this type."""
        filters = warnings.filters
        try:
            if filters and filters[0] is raising:
                return self._dump(value, by_alias=True)
            return self._dump(value, by_alias=True, warnings="error")
        except (PydanticSerializationError, UserWarning) as cause:
            raise WrongAnswer(kind=type(value).__name__, why=str(cause)) from cause


# The filter of `raise_warnings`, once a program has set it.
raising: Any = None


def raise_warnings() -> None:
    """Make a warning that Pydantic gives in this module an error; for programs that own their process.

    Asked to raise, Pydantic spends two thirds of a small answer on reading the word "error" (1.3 of 2 us). Asked to warn it
    spends nothing, and this filter raises instead. Whoever puts another filter before it gets the word again.
    """
    global raising  # noqa: PLW0603 - as warnings.filters itself: one per process
    warnings.filterwarnings("error", category=UserWarning, module=re.escape(__name__) + r"\Z")
    raising = warnings.filters[0]


CODECS: WeakKeyDictionary[TypeAdapter[Any], Codec[Any]] = WeakKeyDictionary()


def codec_of(adapter: TypeAdapter[T]) -> Codec[T]:
    """The codec of an adapter, made once."""
    found = CODECS.get(adapter)
    if found is None:
        found = CODECS[adapter] = Codec(adapter)
    return found


def decode(adapter: TypeAdapter[T], body: bytes) -> T:
    """The value in `body`. Raises BadBody or InvalidBody."""
    return codec_of(adapter).decode(body)


def encode(adapter: TypeAdapter[T], value: T) -> bytes:
    """The JSON of `value`. Raises WrongAnswer."""
    return codec_of(adapter).encode(value)


OUR_CONFIG: dict[str, Any] = {"strict": True, "extra_fields_behavior": "forbid"}
# Where a schema holds values of the user's or of Pydantic's, not schemas.
NO_SCHEMAS = frozenset({"config", "default", "expected", "metadata", "serialization"})
# Of what a model consists that takes no fraction and nothing nested.
SCALAR_SCHEMAS = frozenset(
    {"model", "model-fields", "model-field", "default", "nullable", "str", "int", "bool", "none"}
)


def strict_validate(adapter: TypeAdapter[T]) -> Callable[[bytes], T]:
    """validate_json, strict and closed but for what the type says of itself."""
    # Without prebuilt parts, because a nested model's own validator was built without our defaults.
    schema: Any = with_our_config(adapter.core_schema)
    return SchemaValidator(schema, OUR_CONFIG, _use_prebuilt=False).validate_json  # type: ignore[arg-type]


def schema_nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a core schema, itself included."""
    if isinstance(node, dict):
        is_schema = isinstance(node.get("type"), str)
        if is_schema:
            yield node
        for key, member in node.items():
            if not (is_schema and key in NO_SCHEMAS):
                yield from schema_nodes(member)
    elif isinstance(node, (list, tuple)):
        for member in node:
            yield from schema_nodes(member)


def says_otherwise(node: dict[str, Any]) -> bool:
    """Whether one schema is lax or open."""
    config = node.get("config") or {}
    return (
        node.get("strict") is False
        or config.get("strict") is False
        or config.get("extra_fields_behavior", "forbid") != "forbid"
        or node.get("extra_behavior", "forbid") != "forbid"
    )


def counts_keys(schema: Any) -> bool:
    """Whether the fields that are set tell how many different keys a document had: a model that nothing wraps.

    Not with aliases, because two fields may read one key.
    """
    if schema["type"] != "model" or schema.get("root_model") or schema.get("custom_init") or schema.get("post_init"):
        return False
    inner = schema["schema"]
    return inner["type"] == "model-fields" and not any("validation_alias" in each for each in inner["fields"].values())


def plain_of(schema: Any) -> Callable[[bytes], bool]:
    """Which look at the bytes tells that a document of this type need not be parsed before it is validated."""
    if not counts_keys(schema):
        return never
    nodes = list(schema_nodes(schema))
    closed = all(node["type"] in SCALAR_SCHEMAS and not says_otherwise(node) for node in nodes)
    return plain_scalars if closed else plain


def never(_: bytes) -> bool:
    """For types whose documents are always parsed first."""
    return False


def with_our_config(node: Any) -> Any:
    """A copy of a core schema in which each config that is silent says what ours says."""
    if isinstance(node, (list, tuple)):
        return type(node)(with_our_config(member) for member in node)
    if not isinstance(node, dict):
        return node
    is_schema = isinstance(node.get("type"), str)
    copy = {key: member if is_schema and key in NO_SCHEMAS else with_our_config(member) for key, member in node.items()}
    if is_schema and node["type"] in ("model", "dataclass", "typed-dict"):
        config = copy["config"] = OUR_CONFIG | (node.get("config") or {})
        if node["type"] == "typed-dict":
            # Pydantic writes "ignore" into a silent one, and what stands there outranks the config.
            copy["extra_behavior"] = config["extra_fields_behavior"]
    return copy


def number_text(number: object) -> dict[str, str]:
    """A JSON number with a fraction or exponent, for `fingerprint`; the key cannot occur in a checked body."""
    if not isinstance(number, LosslessFloat):
        raise TypeError(f"{type(number).__name__} is no JSON value")
    written, shortest = bytes(number).decode(), repr(float(number))
    return {"\0": shortest if Decimal(written) == Decimal(shortest) else written}


CANONICAL = JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, default=number_text)


def fingerprint(method: str, path: str, query: bytes, body: bytes) -> bytes:
    """32 bytes that are equal for requests that ask for the same thing.

    The order of keys, whitespace, and how a string or fraction is spelled do not matter; `1` and `1.0` differ. SHA-256.
    An empty body is its own value. Raises BadBody if the body is not JSON.
    """
    asked: list[Any] = [method, path, query.decode("latin-1")]
    if body:
        try:
            asked.append(from_json(body, catch_duplicate_keys=True, allow_inf_nan=False, float_mode="lossless-float"))
        except ValueError as cause:
            raise unreadable(body, str(cause)) from None
    return sha256(CANONICAL.encode(asked).encode()).digest()
