"""`dujiang contracts`: the file is written, compared, accepted; broken files and wrong flags are told from a break."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

APP = """
from dujiang import App, Event, Module, Tx

site = Module("site")

class Said(Event):
    {fields}

@site.react(Said)
async def hear(tx: Tx, event: Said) -> None: ...

app = App(modules=[site])
"""


class Site:
    """A folder with an application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "contracts.json"

    def code(self, fields: str) -> None:
        """Write the application, its event with these fields."""
        (self.folder / "mysite.py").write_text(APP.format(fields=fields))

    def run(self, *flags: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder."""
        command = [sys.executable, "-B", "-m", "dujiang.cli", "contracts", "mysite:app", *flags]
        return subprocess.run(
            command, cwd=self.folder, input=given, capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An application whose contracts are written down."""
    made = Site(tmp_path)
    made.code("n: int")
    assert made.run("--write").returncode == 0
    return made


class TestContracts:
    def test_without_a_file_a_check_says_how_to_make_one(self, tmp_path: Path) -> None:
        """A check needs something to compare with."""
        made = Site(tmp_path)
        made.code("n: int")

        ended = made.run("--check")

        assert ended.returncode == 78
        assert "contracts.json [contracts_missing]" in ended.stderr
        assert "--write" in ended.stderr

    def test_a_break_ends_the_check_until_it_is_accepted(self, site: Site) -> None:
        """The difference is shown with 0, checked with 1, written with 0; then nothing is different."""
        site.code("n: int\n    name: str")

        shown, checked = site.run(), site.run("--check")
        accepted, again = site.run("--write"), site.run("--check")

        assert (shown.returncode, checked.returncode, accepted.returncode, again.returncode) == (0, 1, 0, 0)
        (line,) = [line for line in checked.stdout.splitlines() if line.startswith("BREAKS")]
        assert "event Said: `name`: it is required" in line
        assert "what version 1 stored cannot be read; cure: give it a default" in line
        assert again.stdout == "nothing has changed\n"

    def test_what_is_compatible_passes_and_is_said(self, site: Site) -> None:
        """A field with a default; as JSON too."""
        site.code('n: int\n    name: str = ""')

        checked, told = site.run("--check"), site.run("--check", "--json")

        assert (checked.returncode, told.returncode) == (0, 0)
        assert "ok     event Said: new field name" in checked.stdout
        found = json.loads(told.stdout)
        assert (found["breaking"], [each["what"] for each in found["compatible"]]) == ([], ["new field name"])

    def test_another_file_can_be_compared_with(self, site: Site) -> None:
        """A pipeline compares with what is deployed, also when the file beside the code was written anew."""
        deployed = site.file.read_text()
        site.code("n: str")
        assert site.run("--write").returncode == 0

        against = site.run("--check", "--against", "-", given=deployed)

        assert site.run("--check").returncode == 0
        assert against.returncode == 1
        assert "integer is written, and string is read" in against.stdout

    @pytest.mark.parametrize(
        ("text", "words"), [("{", "it is no JSON"), ("[]", "its format is None"), ('{"format": 1}', "it has no events")]
    )
    def test_a_damaged_file_is_no_verdict(self, site: Site, text: str, words: str) -> None:
        """What cannot be read is told apart from what breaks."""
        site.file.write_text(text)

        ended = site.run("--check")

        assert ended.returncode == 78
        assert words in ended.stderr
        assert "[contracts_damaged]" in ended.stderr

    def test_writing_compares_with_nothing_else(self, site: Site) -> None:
        """Two wishes that exclude each other are a mistake of the command line."""
        assert site.run("--write", "--check").returncode == 64
