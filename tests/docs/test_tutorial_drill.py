"""The drill's tutorial does what it says: the bug of the page is found by its command, and the page's cure cures it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dujiang.testing.processes import free_port
from tests.docs.markdown import ROOT, Reader, blocks, write_files
from tests.docs.test_adopt import changed

PAGE = ROOT / "docs" / "tutorial-drill.md"


class TestTutorialOfTheDrill:
    @pytest.mark.proof  # Three whole drills.
    def test_the_bug_is_found_and_its_cure_holds(self, site: Path) -> None:
        """A reader who types every command sees what the page shows: a violation with its line, then, cured, none.

        The test of the page fails on the code with the bug and passes on the cured one.
        """
        write_files(PAGE, site)
        module = site / "tickets" / "__init__.py"
        before = drilled_by_pytest(site)

        with Reader(site, free_port()) as reader:
            for block in blocks(PAGE):
                if block.language == "diff":
                    module.write_text(changed(module.read_text(), f"@@\n{block.text}"))
                if block.language == "console":
                    reader.session(block.text)
        after = drilled_by_pytest(site)

        assert before.returncode == 1
        assert "✗ every seat is free or sold" in before.stdout
        assert "replay: dujiang replay .drill/" in before.stdout
        assert after.returncode == 0, after.stdout


def drilled_by_pytest(site: Path) -> subprocess.CompletedProcess[str]:
    """The page's test, run by a pytest of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_office.py"],
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
