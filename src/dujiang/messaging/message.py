"""Message: a typed, versioned event and the envelope in which it travels.

An event is a Pydantic model. `key()` marks the field by which its order is kept: events with one key are handled in the
order of their commits. The stored name is the class's name, or `name=`; `version=` is the number of its schema.

    class OrderPlaced(Event, version=2):
        order_id: Id = key()
        total: Money

Unknown fields of a payload are ignored, so an older consumer reads a newer producer that only added something.

What was stored under an older version is brought up to the present one before it is read, a step for each version:

    @OrderPlaced.upcast(1)
    def with_currency(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "total": f"{payload['total']} EUR"}

A version without a step is read as it is, which is right when the next one only added fields with defaults. What is
stored and cannot be read refuses a start (contracts.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from dujiang.kernel.errors import Declared

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic.fields import FieldInfo
else:
    ModelMetaclass = type(BaseModel)

# Brings the JSON object of a payload from one version to the next.
Upcaster: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any]]"

KEY_MARK = {"x-dujiang-key": True}


def key(*, description: str | None = None) -> Any:
    """Mark the field whose value keeps the order: one key, one line of events."""
    return Field(description=description, json_schema_extra=dict(KEY_MARK))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key, Field))
class EventType(ModelMetaclass):
    """The type of event classes; it tells type checkers that `key()` is not a default."""


class Event(BaseModel, metaclass=EventType):
    """Something that happened. Subclass it; the docstring says what happened.

    Class arguments:
        name: The stored name; default: the class's name. Never reuse one for another meaning.
        version: The schema's number, from 1.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    event_name: ClassVar[str] = ""
    event_version: ClassVar[int] = 1
    key_field: ClassVar[str | None] = None
    upcasters: ClassVar[dict[int, Upcaster]] = {}

    def __init_subclass__(cls, **_: Any) -> None:
        """Let the class arguments through to the hook below; the one of `object` refuses them."""
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(cls, name: str | None = None, version: int = 1, **kwargs: Any) -> None:
        """Read the class arguments and find the key."""
        super().__pydantic_init_subclass__()
        if kwargs:
            raise Declared(
                where=cls.__name__, what=f"has the class argument {next(iter(kwargs))}", how="write name= or version="
            )
        cls.event_name = name or cls.__name__
        cls.event_version = version
        cls.upcasters = {}
        keys = [field for field, info in cls.model_fields.items() if marks_key(info)]
        if len(keys) > 1:
            raise Declared(where=cls.__name__, what=f"has {len(keys)} keys: {', '.join(keys)}", how="mark one field")
        cls.key_field = keys[0] if keys else None

    def order_key(self) -> str | None:
        """The text of this event's key, or None without a key."""
        return None if self.key_field is None else str(getattr(self, self.key_field))

    def to_bytes(self) -> bytes:
        """The payload: this event as JSON."""
        return self.__pydantic_serializer__.to_json(self)

    @classmethod
    def upcast(cls, version: int) -> Callable[[Upcaster], Upcaster]:
        """Declare how a payload of `version` becomes one of the next version: a function of JSON objects.

        It must know nothing but the payload: it runs whenever an old message is read, years later too.

        Raises:
            Declared: If there is no such older version, or it has its step already.
        """

        def declare(function: Upcaster) -> Upcaster:
            if not 1 <= version < cls.event_version:
                what = f"has version {cls.event_version}, and a step from version {version}"
                raise Declared(where=cls.__name__, what=what, how=f"steps begin at 1 to {cls.event_version - 1}")
            if version in cls.upcasters:
                how = "keep one of them"
                raise Declared(where=cls.__name__, what=f"has two steps from version {version}", how=how)
            cls.upcasters[version] = function
            return function

        return declare

    @classmethod
    def from_bytes(cls, payload: bytes, version: int | None = None) -> Any:
        """The event of a payload that was stored under a version; None = the present one.

        Raises:
            pydantic.ValidationError: It is no such event.
            Exception: What a step raised.
        """
        steps = [] if version is None else range(version, cls.event_version)
        wanted = [cls.upcasters[step] for step in steps if step in cls.upcasters]
        if wanted:
            found = from_json(payload)
            for step in wanted:
                found = step(found)
            payload = to_json(found)
        return cls.__pydantic_validator__.validate_json(payload)


class Readable(Protocol):
    """What reads the payloads of one name: the class of an event, or the parameters of a job (jobs/arguments.py)."""

    @property
    def event_name(self) -> str:
        """The stored name."""
        ...

    @property
    def event_version(self) -> int:
        """The number of the present form."""
        ...

    @property
    def upcasters(self) -> dict[int, Upcaster]:
        """What brings older forms to the next."""
        ...

    def model_json_schema(self) -> dict[str, Any]:
        """The present form."""
        ...

    def from_bytes(self, payload: bytes, version: int | None = None) -> Any:
        """What a payload says that was stored under a version."""
        ...


def marks_key(info: FieldInfo) -> bool:
    """Whether a field was declared with `key()`."""
    return isinstance(info.json_schema_extra, dict) and "x-dujiang-key" in info.json_schema_extra


@dataclass(frozen=True, slots=True)
class Message:
    """An event on its way: attributes by CloudEvents 1.0, payload as bytes.

    Attributes:
        seq: Its place in the outbox; ascending in the order of commits for one key.
        message_id: 16 bytes, UUIDv7: CloudEvents `id`.
        topic: The event's stored name: CloudEvents `type`.
        okey: The order key, or None.
        created_us: When its transaction began, microseconds: CloudEvents `time`.
        headers: Further attributes: `version`, `traceparent`, `correlation`, `causation`, `tenant`, `hop`.
        payload: JSON bytes: CloudEvents `data`.
    """

    seq: int
    message_id: bytes
    topic: str
    okey: str | None
    created_us: int
    headers: dict[str, Any]
    payload: bytes


def headers_text(headers: dict[str, Any]) -> str:
    """Headers that we made, as they are stored."""
    if len(headers) == 1 and "traceparent" in headers:  # Most events, and the values need no escaping.
        return f'{{"traceparent":"{headers["traceparent"]}"}}'
    return received_text(headers)


def received_text(headers: dict[str, Any]) -> str:
    """Headers that somebody made, as they are stored; half a surrogate pair, which no database takes, stays escaped."""
    text = json.dumps(headers, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(headers, separators=(",", ":"))
    return text


def headers_of(text: str | None) -> dict[str, Any]:
    """Stored headers as a dict; anything unreadable is empty, because a message is never lost for its headers."""
    if not text or text == "{}":
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
