"""Many shapes of models: each gets valid requests, simple ones and the ends of its limits.

Every request in a pool has been read by the gateway's own decoder. What is looked at here is that there are enough of
them, and that they reach where the type reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator
from typing_extensions import TypedDict

from dujiang import App, Id, Instant, Json, Model, Module, Money, Scale, Tx
from dujiang.drill.workload.contract import flows_of
from dujiang.drill.workload.pool import Kept, kept_of


class Color(Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Small(Model):
    """A part."""

    size: int = Field(ge=3, le=7)


class Numbers(Model):
    """Numbers with limits of every form."""

    open: int = Field(gt=0, lt=4)
    even: int = Field(ge=0, le=100, multiple_of=10)
    far: int = Field(ge=5_000_000_000)
    ratio: float = Field(gt=0, lt=1)
    free: int


class Texts(Model):
    """Text with limits of every form."""

    short: str = Field(min_length=2, max_length=4)
    code: str = Field(pattern=r"^[A-Z]{2}-[0-9]{3}$")
    unicode: str = Field(pattern=r"^[é-ü]+$", max_length=9)
    free: str


class Times(Model):
    """Dates, times and identifiers."""

    day: date
    at: datetime
    hour: time
    lasts: timedelta
    uuid: UUID
    moment: Instant


class Amounts(Model):
    """Money and decimals."""

    price: Money
    whole: Annotated[Decimal, Scale(0)]
    rate: Annotated[Decimal, Field(max_digits=6, decimal_places=3)]


class Lists(Model):
    """Collections."""

    tags: set[str] = Field(min_length=1, max_length=3)
    pair: tuple[int, str]
    parts: list[Small] = Field(min_length=1)
    counts: dict[str, int]
    maybe: list[int] | None = None


class Cat(Model):
    """One kind."""

    kind: Literal["cat"] = "cat"
    lives: int = Field(ge=1, le=9)


class Dog(Model):
    """Another kind."""

    kind: Literal["dog"] = "dog"
    name: Literal["rex", "fido"]


class Pet(Model):
    """One of two kinds."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    color: Color
    both: Literal["a", 1] | None


class Tree(Model):
    """A model that holds itself."""

    label: str = Field(max_length=5)
    children: list[Tree] = Field(default=[], max_length=2)


class Range(Model):
    """Two fields of which each alone is free."""

    first: date
    final: date

    @model_validator(mode="after")
    def ordered(self) -> Range:
        """Refuse an empty range."""
        if self.first >= self.final:
            raise ValueError("the range is empty")
        return self


class Aliased(BaseModel):
    """Fields that travel under another name, in a model that takes more than it names."""

    model_config = ConfigDict(extra="allow", strict=False)

    unit_price: int = Field(alias="unitPrice", ge=1)


class Typed(TypedDict, total=False):
    """A typed dictionary."""

    size: int


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int = 0


class Named(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Others(Model):
    """Types that are no models, and any JSON value."""

    typed: Typed
    point: Point
    named: Named
    anything: Json
    sure: bool


class Many(RootModel[list[Small]]):
    """A body that is a list."""


class Patch(Model):
    """Everything is optional."""

    name: str | None = None
    size: int | None = Field(default=None, ge=1)


class Ids(Model):
    """Ids, which travel as text."""

    order: Id
    more: list[Id] = Field(max_length=3)


Bodies = list[Any]
# Model -> what its bodies must show.
SHAPES: dict[type, Callable[[Bodies], bool]] = {
    Small: lambda bodies: {each["size"] for each in bodies} == {3, 4, 5, 6, 7},
    Numbers: lambda bodies: (
        {each["open"] for each in bodies} == {1, 2, 3}
        and {0, 100} <= {each["even"] for each in bodies}
        and 5_000_000_000 in [each["far"] for each in bodies]
        and min(each["free"] for each in bodies) < 0
    ),
    Texts: lambda bodies: (
        {4} < {len(each["short"]) for each in bodies} <= {2, 3, 4}
        and len({each["code"] for each in bodies}) > 5
        and any(each["free"] == "" or not each["free"].isascii() for each in bodies)
    ),
    Times: lambda bodies: len({each["moment"] for each in bodies}) > 3 and len({each["day"] for each in bodies}) > 3,
    Amounts: lambda bodies: (
        any(each["price"].startswith("-") for each in bodies) and "10" in [e["whole"] for e in bodies]
    ),
    Lists: lambda bodies: any(each.get("maybe") for each in bodies) and any("maybe" not in each for each in bodies),
    Pet: lambda bodies: (
        {each["pet"]["kind"] for each in bodies} == {"cat", "dog"}
        and {each["color"] for each in bodies} == {"red", "blue"}
        and {each["both"] for each in bodies} == {"a", 1, None}
    ),
    Tree: lambda bodies: any(each.get("children") and each["children"][0].get("children") for each in bodies),
    Range: lambda bodies: all(each["first"] < each["final"] for each in bodies),
    Aliased: lambda bodies: all(each["unitPrice"] >= 1 for each in bodies),
    Others: lambda bodies: len({type(each["anything"]) for each in bodies}) > 2,
    Many: lambda bodies: {0, 1} <= {len(each) for each in bodies},
    Patch: lambda bodies: {0, 1, 2} == {len(each) for each in bodies},
    Ids: lambda bodies: all(isinstance(each["order"], str) for each in bodies),
}


def taking(models: list[type]) -> App:
    """An app with a write for each model."""
    module = Module("shapes")
    for model in models:

        async def take(tx: Tx, body: Any) -> None: ...

        take.__annotations__ = {"tx": Tx, "body": model, "return": None}
        module.write(f"POST /{model.__name__.lower()}", name=model.__name__.lower())(take)
    return App(modules=[module])


@pytest.fixture(scope="module")
def pools() -> dict[str, Kept]:
    """The pools of all shapes."""
    return kept_of(flows_of(taking(list(SHAPES))), 0)[0]


class TestShapes:
    @pytest.mark.parametrize("model", list(SHAPES), ids=lambda model: model.__name__)
    def test_a_shape_has_requests_that_reach_its_limits(self, model: type, pools: dict[str, Kept]) -> None:
        """At least four valid bodies, and among them what the type is about."""
        kept = pools[f"shapes.{model.__name__.lower()}"]
        bodies = [parts["body"] for _, parts in kept]

        assert len(bodies) >= 4
        assert SHAPES[model](bodies), bodies

    def test_plain_values_are_few(self, pools: dict[str, Kept]) -> None:
        """Requests that shall meet on the same rows have few different ids and words."""
        plain = [parts["body"] for kind, parts in pools["shapes.ids"] if kind == "plain"]
        texts = [parts["body"]["free"] for kind, parts in pools["shapes.texts"] if kind == "plain"]

        assert {each["order"] for each in plain} <= {"1", "2", "3"}
        assert len(set(texts)) <= 3

    def test_null_and_negative_numbers_are_left_to_the_limits(self, pools: dict[str, Kept]) -> None:
        """What most handlers refuse does not stand among the plain requests."""
        plain = [parts["body"] for kind, parts in pools["shapes.amounts"] if kind == "plain"]
        patches = [parts["body"] for kind, parts in pools["shapes.patch"] if kind == "plain"]

        assert all(float(each["price"]) > 0 for each in plain)
        assert None not in [value for each in patches for value in each.values()]


class Impossible(Model):
    """No value passes."""

    size: int

    @model_validator(mode="after")
    def never(self) -> Impossible:
        """Refuse whatever comes."""
        raise ValueError("the moon is not full")


class Exampled(Model):
    """Hard to hit without its examples."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"secret": 4711}, {"secret": 1}]})

    secret: int

    @model_validator(mode="after")
    def known(self) -> Exampled:
        """Refuse every secret but one."""
        if self.secret != 4711:
            raise ValueError("wrong secret")
        return self


class TestValidators:
    def test_a_validator_that_refuses_everything_is_quoted(self) -> None:
        """A flow without a valid body has no pool, and the reason is what the validator said."""
        pools, why = kept_of(flows_of(taking([Impossible])), 0)

        assert pools == {}
        assert "the moon is not full" in why["shapes.impossible"]

    def test_an_example_finds_what_chance_does_not(self) -> None:
        """The valid example of a model stands in the pool, first; its wrong one does not."""
        kept = kept_of(flows_of(taking([Exampled])), 0)[0]["shapes.exampled"]

        assert kept[0] == ("example", {"body": {"secret": 4711}})
        assert all(parts["body"]["secret"] == 4711 for _, parts in kept)
