"""The two READMEs: their commands print what they show, their module runs, and they show the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.harness import running
from dujiang.testing.processes import free_port
from tests.docs.markdown import ROOT, Reader, blocks, needed, write_files

PAGE = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"


class TestReadme:
    def test_the_first_commands_print_what_it_shows(self, tmp_path: Path) -> None:
        """An order by `curl` gets the shown receipt, and is then shown as reserved."""
        needed("curl")

        with Reader(tmp_path, free_port()) as reader:
            for block in blocks(PAGE):
                if block.language == "console":
                    reader.session(block.text)

    def test_make_up_is_the_command_that_is_typed_here(self) -> None:
        """`make up` starts `dujiang up` with its port and folder, which is what the test above types."""
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

        assert "dujiang up --port $(PORT) --data $(DATA)" in makefile

    async def test_its_module_does_what_its_comments_say(self, site: Path, database: str) -> None:
        """A guest signs and is greeted, on both databases; the table is made as its migration would."""
        write_files(PAGE, site)
        guestbook = importlib.import_module("guestbook")

        async with running(guestbook.app, database=database) as world:

            async def make_tables(connection: Any) -> None:
                async with connection.orm_connection() as plain:
                    await plain.run_sync(guestbook.metadata.create_all)

            await world.runtime.database.write(make_tables)
            first = await world.post("/guests", {"name": "Li"}, key="k1")
            again = await world.post("/guests", {"name": "Li"}, key="k1")
            await world.settle()
            guests = await world.get("/guests")

        assert first.status == 201
        assert again.body == first.body
        assert guests.json == ["hello Li"]

    def test_both_languages_show_the_same_blocks_and_links(self) -> None:
        """What is run and what is linked does not depend on the language."""
        from tests.docs.test_reference import LINK

        shown = [[(block.language, block.text) for block in blocks(page)] for page in (PAGE, CHINESE)]
        linked = [
            {target for target, _ in LINK.findall(page.read_text(encoding="utf-8")) if "README" not in target}
            for page in (PAGE, CHINESE)
        ]

        assert shown[0] == shown[1]
        assert linked[0] == linked[1]

    @pytest.mark.parametrize("page", [PAGE, CHINESE], ids=["english", "chinese"])
    def test_the_example_is_short(self, page: Path) -> None:
        """The module fits into one look: at most 25 lines of code, imports and blank lines aside."""
        code = next(block.text for block in blocks(page) if block.language == "python").splitlines()
        counted = [line for line in code if line.strip() and not line.startswith(("from ", "import "))]

        assert len(counted) <= 25
