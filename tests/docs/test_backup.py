"""The page on backups does what it says: its commands are typed in an empty folder."""

from __future__ import annotations

from pathlib import Path

from dujiang.testing.processes import free_port
from tests.docs.markdown import ROOT, Reader, blocks, needed

PAGE = ROOT / "docs" / "operate" / "backup.md"


def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    """A reader who types every command sees what the page shows, from `up` to the audit of the restored store."""
    needed("curl")

    with Reader(tmp_path, free_port()) as reader:
        for block in blocks(PAGE):
            if block.language == "console":
                reader.session(block.text)
