"""Arguments: how the parameters of a job are stored, and read again in another process, maybe by another version.

    send(job, body=Notice(...), channel="mail")   ──►   {"body": {"to": "a@example.org"}, "channel": "mail"}

One JSON object with a member for each parameter, so a dead letter shows what it was asked for, and can be replayed with
a corrected one. What is missing there takes the function's default: a release may add a parameter that has one. Unknown
members are left alone, so that an older process can do what a newer one accepted. The type of each parameter decides about
its own unknown fields.
"""

from __future__ import annotations

from inspect import Parameter
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from dujiang.kernel.errors import Declared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOPIC = "job:"


class Arguments:
    """The parameters of one job; reads stored ones as the class of an event reads its payloads (messaging/message.py).

    Args:
        name: The job's stored name.
        parameters: Its parameters after the first, without what the app provides: type, default or Parameter.empty.
        where: Names the function in errors.

    Raises:
        Declared: When a parameter cannot be stored.
    """

    event_version = 1

    def __init__(self, name: str, parameters: Mapping[str, tuple[Any, Any]], where: str) -> None:
        self.event_name = TOPIC + name
        self.upcasters: dict[int, Any] = {}
        self.names = list(parameters)
        self._defaulted = {each for each, (_, default) in parameters.items() if default is not Parameter.empty}
        self._adapters: dict[str, TypeAdapter[Any]] = {}
        for each, (hint, _) in parameters.items():
            try:
                self._adapters[each] = TypeAdapter(hint)
                self._adapters[each].json_schema()
            except Exception:  # noqa: BLE001  (Pydantic has many ways to say that a type is none of its own)
                what = f"has the parameter {each}, which cannot be stored: {getattr(hint, '__name__', hint)}"
                how = "take what has a JSON form: a model, a text, a number; a running job has no request to ask"
                raise Declared(where=where, what=what, how=how) from None

    def __repr__(self) -> str:
        return f"<Arguments of {self.event_name.removeprefix(TOPIC)}: {', '.join(self.names)}>"

    def values_of(self, args: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters by name. Raises TypeError when one is missing, unknown or given twice."""
        name = self.event_name.removeprefix(TOPIC)
        if len(args) > len(self.names):
            raise TypeError(f"{name} takes {len(self.names)} parameters after the first, and {len(args)} were given")
        given = dict(zip(self.names, args, strict=False))
        for each, value in values.items():
            if each not in self._adapters or each in given:
                raise TypeError(
                    f"{name} {'was given two values for' if each in given else 'has no parameter'} {each!r}"
                )
            given[each] = value
        missing = [each for each in self.names if each not in given and each not in self._defaulted]
        if missing:
            raise TypeError(f"{name} needs {', '.join(missing)}")
        return given

    def to_bytes(self, values: Mapping[str, Any]) -> bytes:
        """The payload of these parameters."""
        members = (to_json(name) + b":" + self._adapters[name].dump_json(value) for name, value in values.items())
        return b"{" + b",".join(members) + b"}"

    def model_json_schema(self) -> dict[str, Any]:
        """The form in which they are stored."""
        return {name: adapter.json_schema() for name, adapter in self._adapters.items()}

    def from_bytes(self, payload: bytes, version: int | None = None) -> dict[str, Any]:
        """The parameters of a payload.

        Raises:
            ValueError: It is no object, or a parameter is missing.
            pydantic.ValidationError: One is of another type.
        """
        found = from_json(payload)
        if not isinstance(found, dict):
            raise ValueError(f"the parameters are one JSON object, and this is {type(found).__name__}")  # noqa: TRY004
        missing = [name for name in self.names if name not in found and name not in self._defaulted]
        if missing:
            raise ValueError(f"the parameters lack {', '.join(missing)}")
        return {name: self._adapters[name].validate_json(to_json(found[name])) for name in self.names if name in found}
