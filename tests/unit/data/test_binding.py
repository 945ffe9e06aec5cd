"""The code that is written for a statement binds as the plain loop does."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.data.binding import EXTRACTED, FIXED, GIVEN, WRITTEN_MAX, binder, looped
from dujiang.data.meaning import ruled
from dujiang.data.values import ColumnRefused, integer_rule, text_rule

WHOLE = ruled(integer_rule(32), "t.n", None)
SHORT = ruled(text_rule(3), "t.s", None)
PLAN = [
    (GIVEN, "n", WHOLE),
    (FIXED, 5, None),
    (GIVEN, "it's {a} name\n", SHORT),
    (EXTRACTED, 0, None),
    (GIVEN, "raw", None),
    (GIVEN, "made", lambda value: [value]),
]
HELD = [None, 5, None, "x", None, None]


def given(n: Any = 1, s: Any = "abc") -> dict[str, Any]:
    """Values of all names."""
    return {"n": n, "it's {a} name\n": s, "raw": object, "made": 1, "more": 2}


@pytest.mark.parametrize("n", [0, True, None, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("s", ["", "abc", "江", None, "a\n{"])
def test_the_written_code_binds_as_the_loop(n: Any, s: Any) -> None:
    """Values that fit come out the same, those of the statement stand between them."""
    made = binder("SELECT", PLAN)(HELD, given(n, s))

    assert made == looped("SELECT", PLAN)(HELD, given(n, s))
    assert made == ("SELECT", [n, 5, s, "x", object, [1]])


@pytest.mark.parametrize("values", [given(n=2**31), given(n=1.0), given(s="abcd"), given(s="a\0"), given(s="\ud800")])
def test_a_value_that_does_not_fit_is_refused_by_both(values: dict[str, Any]) -> None:
    """The quick look lets nothing through that the rule refuses."""
    errors = []
    for bind in (binder("SELECT", PLAN), looped("SELECT", PLAN)):
        with pytest.raises(ColumnRefused) as refused:
            bind(HELD, values)
        errors.append(refused.value.values)

    assert errors[0] == errors[1]


def test_a_missing_value_is_a_key_error() -> None:
    """Of the written code too."""
    with pytest.raises(KeyError, match="raw"):
        binder("SELECT", PLAN)(HELD, {name: value for name, value in given().items() if name != "raw"})


def test_a_long_plan_is_a_loop() -> None:
    """A statement with a list unfolded into it is bound without code of its own."""
    plan = [(GIVEN, f"n{place}", None) for place in range(WRITTEN_MAX + 1)]

    assert binder("SELECT", plan)([None] * len(plan), {f"n{place}": place for place in range(WRITTEN_MAX + 1)}) == (
        "SELECT",
        list(range(WRITTEN_MAX + 1)),
    )
