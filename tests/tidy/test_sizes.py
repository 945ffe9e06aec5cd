"""Files and functions stay small; the measure is measured first."""

from __future__ import annotations

from tests.tidy import sizes
from tests.tidy.source import ROOT, Source, benches, product, suite, tell


class TestTheChecker:
    def test_a_file_of_one_line_too_many_is_found(self) -> None:
        """The limit itself is free; one line more is found."""
        assert sizes.long_file(Source("m", "x = 1\n" * 400), 400) == []
        assert "401 lines" in sizes.long_file(Source("m", "x = 1\n" * 401), 400)[0]

    def test_a_function_is_measured_without_docstring_and_decorators(self) -> None:
        """Sixty lines from `def` on are free, however much is said about them."""
        said = '    """One.\n\n    Two.\n    """\n'
        fits = "@decorated\n@twice\ndef f():\n" + said + "    x = 1\n" * 59
        inner = "class A:\n    async def f(self):\n" + "        x = 1\n" * 60

        assert sizes.long_functions(Source("m", fits)) == []
        assert "f has 61 lines" in sizes.long_functions(Source("m", fits + "    x = 1\n"))[0]
        assert "f has 61 lines" in sizes.long_functions(Source("m", inner))[0]


class TestTheProject:
    def test_files_are_short(self) -> None:
        """Product and benchmarks keep to 400 lines, tests to 800."""
        findings = [f for source in (*product(), *benches()) for f in sizes.long_file(source, sizes.FILE_LINES)]
        findings += [f for source in suite() for f in sizes.long_file(source, sizes.TEST_FILE_LINES)]

        assert not findings, tell(findings)

    def test_functions_are_short(self) -> None:
        """No function, test or not, needs scrolling."""
        findings = [f for source in (*product(), *benches(), *suite()) for f in sizes.long_functions(source)]

        assert not findings, tell(findings)

    def test_every_exception_still_exists(self) -> None:
        """A file that may be longer exists and is longer."""
        stale = [path for path in sizes.ALLOWED if len((ROOT / path).read_text().splitlines()) <= sizes.FILE_LINES]

        assert not stale
