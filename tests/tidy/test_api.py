"""`api.txt` says what is public, and the code agrees."""

from __future__ import annotations

from types import ModuleType

import pytest

import dujiang
from tests.tidy import api

NAMES_MOST = 60


def face(text: str, *names: str) -> ModuleType:
    """A module made from a few lines, with these public names."""
    module = ModuleType("face")
    exec(text, module.__dict__)
    module.__dict__["__all__"] = list(names)
    return module


class TestTheChecker:
    def test_functions_classes_and_values_have_a_line_each(self) -> None:
        """Names stand in the order of the alphabet, signatures as they are written, private ones not at all."""
        text = (
            "async def write(path: str, *, key: str | None = None, kind: str = 'x') -> int: ...\n"
            "class Tx:\n"
            "    LIMIT = 3\n"
            "    def __init__(self, name: str) -> None: ...\n"
            "    @property\n"
            "    def now(self) -> int: ...\n"
            "    @classmethod\n"
            "    def make(cls) -> None: ...\n"
            "    def _hidden(self): ...\n"
            "class Sub(Tx): ...\n"
            "COUNT = 1\n"
        )

        lines = list(api.lines_of(face(text, "write", "Tx", "COUNT")))

        assert lines == [
            "value face.COUNT: int",
            "class face.Tx(name: str) -> None",
            "value face.Tx.LIMIT",
            "def face.Tx.make(cls) -> None",
            "property face.Tx.now -> int",
            "async def face.write(path: str, *, key: str | None = None, kind: str = 'x') -> int",
        ]

    def test_a_changed_signature_is_seen(self) -> None:
        """A new default is a line that went and one that came."""
        before = api.text_of([face("def f(a: int) -> None: ...", "f")])
        after = api.text_of([face("def f(a: int = 1) -> None: ...", "f")])

        assert api.difference(before, before) == []
        assert api.difference(before, after)[2:] == ["-def face.f(a: int) -> None", "+def face.f(a: int = 1) -> None"]

    def test_a_module_without_a_list_of_names_is_refused(self) -> None:
        """Nothing is public by accident."""
        with pytest.raises(AssertionError, match="has no __all__"):
            list(api.lines_of(ModuleType("face")))


class TestTheProduct:
    def test_the_file_equals_the_public_face(self) -> None:
        """A change to the public face is accepted by a person, with `python -m tests.tidy.api --write`."""
        told = api.FILE.read_text(encoding="utf-8") if api.FILE.exists() else ""

        found = api.difference(told, api.made())

        assert not found, "\n".join(["", *found, "if users should get this: python -m tests.tidy.api --write"])

    def test_the_public_face_is_small_enough_to_be_known(self) -> None:
        """At most 60 names."""
        assert len(dujiang.__all__) <= NAMES_MOST
