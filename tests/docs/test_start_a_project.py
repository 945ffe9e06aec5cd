"""The page on new projects does what it says: its commands are typed in an empty folder."""

from __future__ import annotations

from pathlib import Path

from tests.docs.markdown import ROOT, Reader, blocks

PAGE = ROOT / "docs" / "howto" / "start-a-project.md"


def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    """A reader who types every command sees what the page shows, down to the routes of the copy."""
    with Reader(tmp_path, 1) as reader:
        for block in blocks(PAGE):
            if block.language == "console":
                reader.session(block.text)
