"""The page on histories does what it says: its test passes on both databases, and its violation prints what it shows."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.docs.markdown import ROOT, Reader, blocks, write_files

PAGE = ROOT / "docs" / "howto" / "check-a-history.md"


class TestCheckAHistory:
    async def test_its_test_passes_on_both_databases(self, site: Path, tmp_path: Path, database: str) -> None:
        """The files of the page are an app and its test, which finds nothing to complain about."""
        write_files(PAGE, site)
        files = tmp_path / "histories"
        files.mkdir()

        await importlib.import_module("test_guests").test_every_greeting_is_printed_once(files, database)

        assert sorted(each.name for each in files.iterdir()) == ["ann.jsonl", "bob.jsonl", "reader.jsonl"]

    def test_its_violation_prints_what_it_shows(self, site: Path) -> None:
        """A reader who types the command sees the anomaly of the page."""
        write_files(PAGE, site)

        with Reader(site, 1) as reader:
            for block in blocks(PAGE):
                if block.language == "console":
                    reader.session(block.text)
