"""Samples: what is made up of a schema is a value of its type, and there is always something where something can be made up."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import to_json

from dujiang import Id, Instant, Model, Money
from dujiang.contracts.forms import form_of
from dujiang.contracts.samples import samples
from dujiang.data.types import Scale


class Part(Model):
    """A part."""

    sku: Annotated[str, Field(min_length=1, max_length=8)]
    quantity: Annotated[int, Field(ge=1, le=10)]
    note: str = ""


class Tree(BaseModel):
    """A part that holds itself."""

    below: list[Tree] = []


@pytest.mark.parametrize(
    "hint",
    [
        int,
        float,
        bool,
        str,
        Id,
        Money,
        Instant,
        date,
        datetime,
        uuid.UUID,
        Part,
        Tree,
        Any,
        Annotated[Decimal, Scale(4)],
        Annotated[int, Field(gt=5, lt=8)],
        Annotated[float, Field(gt=0, lt=1)],
        Annotated[int, Field(multiple_of=7, ge=8)],
        Annotated[str, Field(min_length=20)],
        Annotated[list[Part], Field(min_length=2)],
        Literal["a", "b"],
        Part | None,
        dict[str, int],
        tuple[int, str],
    ],
)
def test_a_sample_is_a_value_of_its_type(hint: Any) -> None:
    """Every type of the usual kinds has samples, and each of them is read by the type itself."""
    found = samples(form_of(hint, "serialization"))

    assert 0 < len(found) <= 8
    for value in found:
        TypeAdapter(hint).validate_json(to_json(value), strict=True)


def test_what_nobody_can_invent_has_none() -> None:
    """A pattern that no usual text has: nothing is made up, so nothing is said of a step for it."""
    assert samples({"type": "string", "pattern": "^[A-Z]{3}-[0-9]{9}$"}) == []
