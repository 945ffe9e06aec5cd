"""Every module and every test says what it is for; silent ones are caught."""

from __future__ import annotations

import pytest

from tests.tidy import words
from tests.tidy.source import Source, benches, product, suite, tell


class TestTheChecker:
    @pytest.mark.parametrize("text", ["", "import os", '"""Module."""', "# A comment is no docstring at all.\nX = 1"])
    def test_a_module_that_says_nothing_is_found(self, text: str) -> None:
        """No docstring, or one of a single word, is found."""
        assert len(words.undocumented_module(Source("m", text))) == 1

    def test_a_module_that_says_what_it_is_passes(self) -> None:
        """One honest line is enough."""
        assert words.undocumented_module(Source("m", '"""Relay: moves committed events to the broker."""')) == []

    @pytest.mark.parametrize(
        "body",
        ["pass", '"""test"""', '"""works"""', '"""checks the thing without a full stop at its end"""'],
    )
    def test_a_test_that_claims_nothing_is_found(self, body: str) -> None:
        """A test without a sentence is found, at the top and in a class."""
        assert len(words.undocumented_tests(Source("m", f"async def test_x():\n    {body}"))) == 1
        assert len(words.undocumented_tests(Source("m", f"class TestX:\n    def test_x(self):\n        {body}"))) == 1

    def test_a_sentence_with_its_method_passes(self) -> None:
        """The claim comes first; how it is shown may follow."""
        text = 'def test_x():\n    """A lost confirm costs a repeat.\n\n    Method: drop the first\n    """'

        assert words.undocumented_tests(Source("m", text)) == []
        assert words.undocumented_tests(Source("m", "def helper():\n    pass")) == []


class TestTheProject:
    def test_every_module_says_what_it_is(self) -> None:
        """Product, tests and benchmarks open with a docstring."""
        findings = [f for source in (*product(), *suite(), *benches()) for f in words.undocumented_module(source)]

        assert not findings, tell(findings)

    def test_every_test_says_what_it_holds(self) -> None:
        """A red test tells its claim without being opened."""
        findings = [f for source in suite() for f in words.undocumented_tests(source)]

        assert not findings, tell(findings)
