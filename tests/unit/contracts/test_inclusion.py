"""Inclusion: a yes of the comparison is a proof, in both directions, for models made by chance; and it is no idle no."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, date
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, create_model

from dujiang import Event, Id, Instant, Model, Money
from dujiang.contracts.forms import event_forms
from dujiang.contracts.inclusion import misfits
from dujiang.data.types import INTEGER_MAX, Scale

# So many take a few seconds; 20,000 were run when the rules were written.
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "150"))


class Shape:
    """A type, and values of it."""

    def __init__(self, hint: Any, values: st.SearchStrategy[Any], says: str) -> None:
        self.hint, self.values, self.says = hint, values, says

    def __repr__(self) -> str:
        return self.says


def whole(low: int | None, high: int | None) -> Shape:
    """Integers within bounds."""
    hint = Annotated[int, Field(ge=low, le=high)]
    return Shape(hint, st.integers(low, high), f"int {low}..{high}")


def text(least: int, most: int | None) -> Shape:
    """Texts within lengths."""
    values = st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=12 if most is None else most)
    return Shape(Annotated[str, Field(min_length=least, max_length=most)], values, f"str {least}..{most}")


def choice(values: tuple[Any, ...]) -> Shape:
    """One of a few values."""
    return Shape(Literal.__getitem__(values), st.sampled_from(values), f"one of {values}")


def amount(scale: int) -> Shape:
    """Money of a scale."""
    counts = st.integers(-INTEGER_MAX, INTEGER_MAX).map(lambda count: Decimal(count).scaleb(-scale))
    return Shape(Annotated[Decimal, Scale(scale)], counts, f"money {scale}")


LEAVES = st.one_of(
    st.sampled_from(
        [
            whole(None, None), whole(0, None), whole(0, 10), whole(1, 5), whole(None, 10),
            Shape(float, st.floats(allow_nan=False, allow_infinity=False), "float"),
            Shape(Annotated[float, Field(gt=0)], st.floats(0, 1e9, exclude_min=True), "float > 0"),
            text(0, None), text(1, None), text(1, 5), text(0, 3),
            Shape(bool, st.booleans(), "bool"), Shape(None, st.none(), "none"), Shape(Any, st.integers() | st.text("ab"), "any"),
            Shape(Id, st.integers(0, INTEGER_MAX), "id"), amount(0), amount(2), amount(4),
            Shape(Instant, st.datetimes(timezones=st.just(UTC)), "instant"),
            Shape(date, st.dates(date(1900, 1, 1)), "date"), Shape(uuid.UUID, st.uuids(), "uuid"),
        ]
    ),
    st.sets(st.sampled_from(["a", "b", "c", 1, 2, True]), min_size=1).map(lambda found: choice(tuple(sorted(found, key=repr)))),
)  # fmt: skip


def bigger(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    """Lists, maps, unions, pairs, sets and models of smaller shapes."""
    many = st.tuples(inner, st.sampled_from([(0, None), (1, None), (0, 2)])).map(
        lambda drawn: Shape(
            Annotated[list[drawn[0].hint], Field(min_length=drawn[1][0], max_length=drawn[1][1])],  # type: ignore[misc]
            st.lists(drawn[0].values, min_size=drawn[1][0], max_size=3 if drawn[1][1] is None else drawn[1][1]),
            f"list of {drawn[0]} {drawn[1]}",
        )
    )
    table = inner.map(
        lambda of: Shape(dict[str, of.hint], st.dictionaries(st.sampled_from("abz"), of.values), f"map of {of}")  # type: ignore[name-defined]
    )
    either = st.tuples(inner, inner).map(
        lambda two: Shape(Union[two[0].hint, two[1].hint], two[0].values | two[1].values, f"({two[0]} or {two[1]})")  # noqa: UP007
    )
    pair = st.tuples(inner, inner).map(
        lambda two: Shape(tuple[two[0].hint, two[1].hint], st.tuples(two[0].values, two[1].values), f"pair {two}")  # type: ignore[misc]
    )
    inside = st.tuples(members(inner), st.sampled_from([Model, Loose])).map(lambda drawn: model_of(*drawn))
    return many | table | either | pair | inside


class Loose(BaseModel):
    """A part that ignores what it does not know."""


# Of each field: its shape, and whether it has a default.
Members = dict[str, tuple[Shape, bool]]


def members(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Members]:
    """The fields of a model."""
    return st.dictionaries(st.sampled_from("abc"), st.tuples(inner, st.booleans()), max_size=3)


def made(base: type[BaseModel], fields: Members) -> type[Any]:
    """A model with these fields; a default is the first value that the shape gives, or None where it allows that."""
    told = {}
    for name, (shape, has_default) in fields.items():
        told[name] = (Optional[shape.hint], None) if has_default else (shape.hint, ...)  # noqa: UP045  (of None too)
    return create_model("Made", __base__=base, **told)  # type: ignore[call-overload,no-any-return]


def given_values(fields: Members) -> st.SearchStrategy[dict[str, Any]]:
    """Values for all fields; one with a default may be left out."""
    required = {name: shape.values for name, (shape, has_default) in fields.items() if not has_default}
    optional = {name: shape.values for name, (shape, has_default) in fields.items() if has_default}
    return st.fixed_dictionaries(required, optional=optional)


def model_of(fields: Members, base: type[BaseModel]) -> Shape:
    """A model as a part."""
    part = made(base, fields)
    return Shape(part, given_values(fields).map(lambda values: part(**values)), f"{base.__name__} {fields}")


SHAPES = st.recursive(LEAVES, bigger, max_leaves=4)


@st.composite
def versions(draw: st.DrawFn) -> tuple[Members, Members]:
    """The fields of one class, and of the same after somebody has worked on it."""
    old = draw(members(SHAPES))
    new = {}
    for name, (shape, has_default) in old.items():
        what = draw(st.sampled_from(["kept", "kept", "kept", "typed", "wider", "gone", "default"]))
        if what == "typed":
            new[name] = (draw(SHAPES), has_default)
        elif what == "wider":
            other = draw(SHAPES)
            either = Shape(Union[shape.hint, other.hint], shape.values | other.values, f"({shape} or {other})")  # noqa: UP007
            new[name] = (either, has_default)
        elif what != "gone":
            new[name] = (shape, not has_default if what == "default" else has_default)
    if draw(st.booleans()):
        new["d"] = draw(st.tuples(SHAPES, st.booleans()))
    return old, new


class TestProof:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data(), both=versions(), swapped=st.booleans())
    def test_what_is_called_readable_is_read(
        self, data: st.DataObject, both: tuple[Members, Members], swapped: bool
    ) -> None:
        """Whatever one class publishes, another reads, if nothing was found against it; whichever of the two is older."""
        writer, reader = both[::-1] if swapped else both
        writing, reading = made(Event, writer), made(Event, reader)
        found = misfits(event_forms(writing)[1], event_forms(reading)[0])
        event("misfit" if found else "fits")
        if found:
            return
        payload = writing(**data.draw(given_values(writer))).to_bytes()
        try:
            writing.from_bytes(payload)
        except ValidationError:  # Of `Id | float` Pydantic writes 0.0 as text: no form of the class tells that.
            event("not even read by its own class")
            return

        reading.from_bytes(payload)


def event_of(**fields: Any) -> type[Event]:
    """An event with these fields: a hint, or a hint and a default."""
    told = {name: hint if isinstance(hint, tuple) else (hint, ...) for name, hint in fields.items()}
    made: type[Event] = create_model("Sent", __base__=Event, **told)  # type: ignore[call-overload]
    return made


class Part(Model):
    """A part that refuses what it does not know."""

    n: int


class PartWithMore(Model):
    """The same with one field more."""

    n: int
    note: str = ""


class Tree(BaseModel):
    """A part that holds itself."""

    below: list[Tree] = []


class Cat(Model):
    """One kind."""

    kind: Literal["cat"]


class Dog(Model):
    """Another kind."""

    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class TestVerdicts:
    @pytest.mark.parametrize(
        ("writer", "reader"),
        [
            ({"a": int}, {"a": int, "b": (str, "")}),
            ({"a": int, "b": str}, {"a": int}),
            ({"a": int}, {"a": float}),
            ({"a": int}, {"a": int | None}),
            ({"a": (int, 3)}, {"a": int}),
            ({"a": Literal["x"]}, {"a": Literal["x", "y"]}),
            ({"a": Literal["x"]}, {"a": str}),
            ({"a": Annotated[int, Field(gt=0)]}, {"a": Annotated[int, Field(ge=1)]}),
            ({"a": Annotated[str, Field(max_length=5)]}, {"a": Annotated[str, Field(max_length=9)]}),
            ({"a": list[Part]}, {"a": list[PartWithMore]}),
            ({"a": Tree}, {"a": Tree}),
            ({"a": Cat}, {"a": Pet}),
            ({"a": Pet}, {"a": Pet}),
            ({"a": Money}, {"a": Money}),
            ({"a": Instant}, {"a": str}),
            ({"a": dict[str, int]}, {"a": dict[str, float]}),
            ({"a": tuple[int, str]}, {"a": list[int | str]}),
            ({"a": set[int]}, {"a": list[int]}),
        ],
    )
    def test_what_is_harmless_is_called_so(self, writer: dict[str, Any], reader: dict[str, Any]) -> None:
        """An added optional field, a wider type, a looser bound, a default that is always written: nothing is found."""
        assert misfits(event_forms(event_of(**writer))[1], event_forms(event_of(**reader))[0]) == []

    @pytest.mark.parametrize(
        ("writer", "reader", "path", "words"),
        [
            ({"a": int}, {"a": int, "b": str}, "b", "required, and it is not written"),
            ({"a": str}, {"a": int}, "a", "string is written, and integer is read"),
            ({"a": int | None}, {"a": int}, "a", "null is written"),
            ({"a": float}, {"a": int}, "a", "number is written"),
            ({"a": Literal["x", "y"]}, {"a": Literal["x"]}, "a", '"y" is written, and not among "x"'),
            ({"a": str}, {"a": Literal["x"]}, "a", "string is written"),
            ({"a": Literal[1]}, {"a": bool}, "a", "1 is written"),
            ({"a": int}, {"a": Annotated[int, Field(ge=1)]}, "a", "integer >= 1 is read"),
            ({"a": list[int]}, {"a": Annotated[list[int], Field(max_length=3)]}, "a", "3 is allowed"),
            ({"a": list[PartWithMore]}, {"a": list[Part]}, "a[].note", "unknown fields are refused"),
            ({"a": dict[str, str]}, {"a": dict[str, int]}, "a.*", "string is written"),
            ({"a": Pet}, {"a": Cat}, "a.kind", '"dog" is written'),
            ({"a": Money}, {"a": Annotated[Decimal, Scale(4)]}, "a", "do not fit"),
            ({"a": Annotated[Decimal, Scale(4)]}, {"a": Money}, "a", "lose decimals"),
            ({"a": list[int]}, {"a": set[int]}, "a", "twice"),
            ({"a": str}, {"a": Id}, "a", "is written"),
        ],
    )
    def test_what_breaks_is_named(self, writer: dict[str, Any], reader: dict[str, Any], path: str, words: str) -> None:
        """Each kind of break says where it is and what is written and read there."""
        (found,) = misfits(event_forms(event_of(**writer))[1], event_forms(event_of(**reader))[0])

        assert found.path == path
        assert words in found.why

    def test_an_alias_of_one_direction_is_seen(self) -> None:
        """A field that is read under another name than it is written under is found in the class itself."""
        sent = event_of(a=(int, Field(alias="b")))
        reads, writes = event_forms(sent)

        with pytest.raises(ValidationError):
            sent.from_bytes(sent.model_validate({"b": 1}).to_bytes())
        assert [found.path for found in misfits(writes, reads)] == ["b"]

    def test_a_reader_that_skips_what_it_does_not_know_takes_more(self) -> None:
        """An answer with one field more is no break for a client, though the model of old refuses the field as a body."""
        writer, reader = event_forms(event_of(a=PartWithMore))[1], event_forms(event_of(a=Part))[0]

        assert misfits(writer, reader, tolerant=True) == []
        assert len(misfits(writer, reader)) == 1

    def test_what_is_not_understood_must_be_the_same(self) -> None:
        """A keyword that the comparison does not know is proof of nothing, unless both sides have it."""
        limited = {"type": "string", "contentEncoding": "base64"}

        assert misfits(limited, limited) == []
        assert misfits({"type": "string"}, limited)[0].why.startswith("`contentEncoding` is another")
