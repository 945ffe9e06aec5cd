"""The page on contracts does what it says: its commands are typed, and its application is the one that they judge."""

from __future__ import annotations

from pathlib import Path

from tests.docs.markdown import ROOT, Reader, blocks, write_files

PAGE = ROOT / "docs" / "howto" / "contracts.md"


def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    """A reader who changes the file as the page does sees the same breaks, and then none."""
    write_files(PAGE, tmp_path)

    with Reader(tmp_path, 1, {"PYTHONDONTWRITEBYTECODE": "1"}) as reader:
        for block in blocks(PAGE):
            if block.language == "console":
                reader.session(block.text)
