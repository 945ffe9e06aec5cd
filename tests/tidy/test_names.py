"""Files are named after what is inside, and every one is used."""

from __future__ import annotations

import pytest

from tests.tidy import names
from tests.tidy.source import Source, benches, product, suite, tell


class TestTheChecker:
    @pytest.mark.parametrize(
        "module",
        [
            "dujiang.utils",
            "dujiang.data.common",
            "dujiang.jobs.queue_manager",
            "dujiang.base.x",
            "dujiang.data._private",
        ],
    )
    def test_a_name_that_says_nothing_is_found(self, module: str) -> None:
        """Drawers for anything, and underscores, are found in files and folders."""
        assert len(names.empty_name(Source(module, ""))) == 1

    @pytest.mark.parametrize("module", ["dujiang.database", "dujiang.__main__", "dujiang.data.basement", "dujiang"])
    def test_a_name_that_says_something_passes(self, module: str) -> None:
        """A name is judged by its words, not by its letters."""
        assert names.empty_name(Source(module, "")) == []

    def test_a_module_that_nobody_imports_is_found(self) -> None:
        """A dead module is found; one that is imported, or named in a string, is not."""
        dead = Source("dujiang.data.dead", "from dujiang.data.dead import X\nY = 'dujiang.data.dead'")
        imported = Source("dujiang.data.imported", "")
        named = Source("dujiang.data.named", "")
        user = Source(
            "dujiang.data", "def f():\n    from . import imported\nX = 'dujiang.data.named:Class'", package=True
        )

        findings = names.unused([dead, imported, named, user])

        assert len(findings) == 1
        assert "dujiang.data.dead" in findings[0]

    def test_what_is_shipped_for_others_may_be_used_by_tests(self) -> None:
        """The testing package is used from outside; a test that uses it counts."""
        shipped = Source("dujiang.testing.harness", "")

        assert names.unused([shipped], [Source("tests.x", "from dujiang.testing.harness import running")]) == []


class TestTheProject:
    def test_no_file_is_a_drawer_for_anything(self) -> None:
        """Names say what is inside, in the product, the tests and the benchmarks."""
        findings = [f for source in (*product(), *suite(), *benches()) for f in names.empty_name(source)]

        assert not findings, tell(findings)

    def test_every_module_is_used(self) -> None:
        """Nothing lies about; tests and benchmarks keep only `testing` alive."""
        users = [*suite(), *benches()]
        inner = [source for source in product() if not source.module.startswith("dujiang.testing.")]
        findings = [*names.unused(inner, product()), *names.unused(set(product()) - set(inner), [*product(), *users])]

        assert not findings, tell(findings)
