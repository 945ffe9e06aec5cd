"""No two errors share a code, and each code is words."""

from __future__ import annotations

import pytest

from tests.tidy import codes
from tests.tidy.source import Source, product, tell


class TestTheChecker:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('class A(E):\n    code = "x"\nclass B(E):\n    code = "x"', "is that of A"),
            ('class A(E):\n    code: ClassVar[str] = "D301"', "snake_case"),
            ('class A(E):\n    code = "x"\n    move = "retry"', "is no move"),
        ],
    )
    def test_a_shared_or_strange_code_is_found(self, text: str, says: str) -> None:
        """Twice the same, a number, or a move that nobody knows is found."""
        findings = codes.wrong_codes([Source("m", text)])

        assert len(findings) == 1
        assert says in findings[0]

    def test_an_error_as_it_should_be_passes(self) -> None:
        """A subclass that says nothing new shares its parent's code, and may."""
        text = 'class A(E):\n    code = "out_of_stock"\n    move = "choose"\nclass B(A):\n    """Also."""'

        assert codes.wrong_codes([Source("m", text)]) == []


def test_every_error_of_the_product_has_a_code_of_its_own() -> None:
    """A code leads to one class and to one page."""
    findings = codes.wrong_codes(product())

    assert not findings, tell(findings)
