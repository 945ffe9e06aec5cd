"""Upcast: the steps from an older version of an event to the present one."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.kernel.errors import Declared
from dujiang.messaging.contracts import form_of
from dujiang.messaging.message import Event


class Named(Event, version=4):
    """Steps from 1 and 3; from 2 to 3 only a field with a default was added."""

    first: str
    last: str
    title: str = ""


@Named.upcast(1)
def split(payload: dict[str, Any]) -> dict[str, Any]:
    """One name becomes two."""
    first, _, last = payload["name"].partition(" ")
    return {"first": first, "family": last}


@Named.upcast(3)
def rename(payload: dict[str, Any]) -> dict[str, Any]:
    """A field is called otherwise."""
    return {**payload, "last": payload["family"]}


@pytest.mark.parametrize(
    ("version", "payload"),
    [
        (1, b'{"name": "Li Bing"}'),
        (2, b'{"first": "Li", "family": "Bing"}'),
        (3, b'{"first": "Li", "family": "Bing", "more": [1]}'),
        (4, b'{"first": "Li", "last": "Bing"}'),
        (None, b'{"first": "Li", "last": "Bing"}'),
    ],
)
def test_every_older_version_becomes_the_present_one(version: int | None, payload: bytes) -> None:
    """The steps run in order from the stored version on; a version without a step is read as it is."""
    assert Named.from_bytes(payload, version) == Named(first="Li", last="Bing")


@pytest.mark.parametrize("version", [0, -1, 4, 5])
def test_a_step_from_no_older_version_is_refused(version: int) -> None:
    """The import fails with the cure: steps begin at versions that were."""
    with pytest.raises(Declared, match="step"):
        Named.upcast(version)(split)


def test_a_second_step_from_one_version_is_refused() -> None:
    """Which of the two should run?"""
    with pytest.raises(Declared, match="two steps"):
        Named.upcast(1)(rename)


def test_classes_do_not_share_their_steps() -> None:
    """A subclass is another event, with steps of its own."""

    class Other(Named, version=2):
        """Another."""

    assert Other.upcasters == {}


def test_the_form_follows_the_declaration() -> None:
    """A field, a version or a step more is another form; the same class is the same."""

    class Plain(Event, name="Plain"):
        """One."""

        n: int

    class Wider(Event, name="Plain"):
        """Two."""

        n: int
        m: int = 0

    before = form_of(Named)

    assert form_of(Plain) != form_of(Wider)
    assert before == form_of(Named)
    assert 0 <= before < 1 << 63
