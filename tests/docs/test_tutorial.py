"""The tutorial does what it says: its files are written, its commands typed, its tests run."""

from __future__ import annotations

import importlib
from pathlib import Path

from dujiang.testing.processes import free_port
from dujiang.testing.servers import PostgresServer
from tests.docs.markdown import ROOT, Reader, blocks, needed, write_files

PAGE = ROOT / "docs" / "tutorial.md"


class TestTutorial:
    async def test_its_test_passes_on_both_databases(self, site: Path, database: str) -> None:
        """The files of the page are an app whose first test, that of the page, passes on SQLite and on PostgreSQL."""
        write_files(PAGE, site)

        await importlib.import_module("test_parcels").test_a_parcel_is_stored_and_its_recipient_told(database)

    async def test_its_refusal_holds_on_both_databases(self, site: Path, database: str) -> None:
        """The second test of the page, with a store of its own."""
        write_files(PAGE, site)

        await importlib.import_module("test_parcels").test_a_full_shelf_refuses(database)

    def test_its_commands_print_what_it_shows(self, site: Path) -> None:
        """A reader who types every command in an empty folder sees what the page shows, from `up` to the audit."""
        needed("curl")
        write_files(PAGE, site)

        with Reader(site, free_port()) as reader:
            for block in blocks(PAGE):
                if block.language == "console":
                    reader.session(block.text)

        assert len(reader.ids) == 3

    def test_it_runs_on_postgresql_by_one_setting(self, site: Path, postgres: PostgresServer) -> None:
        """The same commands with DUJIANG_DATABASE set print the same."""
        needed("curl")
        write_files(PAGE, site)

        with Reader(site, free_port(), {"DUJIANG_DATABASE": postgres.create_database()}) as reader:
            for block in blocks(PAGE):
                if block.language == "console":
                    reader.session(block.text)
