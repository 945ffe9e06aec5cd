"""Additive scripts on both databases: what older code can live with is told from what it cannot."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from dujiang.data.migrate import PLATFORM, History, overall, status, upgrade

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.data.migrate import Opener

FIRST = """
    op.create_table("desk", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.String(9), nullable=False))
    op.create_table("gone", sa.Column("id", sa.BigInteger, primary_key=True))
    op.execute("CREATE INDEX desk_name ON desk (name)")
"""


class Deploys:
    """Two versions of a module's scripts: the first has one, the second has more."""

    def __init__(self, folder: Path, opener: Opener) -> None:
        self._opener = opener
        self.old, self.new = (self._package(folder, each) for each in ("old", "new"))
        self._write(self.old, "0001", None, FIRST)
        self._write(self.new, "0001", None, FIRST)

    def _package(self, folder: Path, version: str) -> Path:
        made = folder / f"{version}_{uuid.uuid4().hex}"
        made.mkdir()
        return made

    def _write(self, package: Path, revision: str, follows: str | None, body: str) -> None:
        (package / f"{revision}.py").write_text(
            f'"""Make {revision}."""\nimport sqlalchemy as sa\nfrom alembic import op\n'
            f"revision = {revision!r}\ndown_revision = {follows!r}\ndef upgrade():\n{body}\n"
        )

    def add(self, revision: str, follows: str, body: str) -> None:
        """A further script of the new version."""
        self._write(self.new, revision, follows, body)

    async def deploy(self, package: Path) -> None:
        """Run what is pending in a version."""
        await upgrade(self._opener, [PLATFORM, History("desk", package.name)])

    async def stand_of(self, package: Path) -> str:
        """Where the store stands for a version, over all histories."""
        return overall(await status(self._opener, [PLATFORM, History("desk", package.name)]))[0]


@pytest.fixture
async def deploys(opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploys:
    """The first version is deployed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    made = Deploys(tmp_path, opener)
    await made.deploy(made.old)
    return made


class TestAdditions:
    @pytest.mark.parametrize(
        "body",
        [
            "op.create_table('more', sa.Column('id', sa.BigInteger, primary_key=True), sa.Column('n', sa.Integer, unique=True))",
            "op.add_column('desk', sa.Column('note', sa.String(9)))",
            "op.add_column('desk', sa.Column('count', sa.Integer, nullable=False, server_default='0'))",
            "op.execute('CREATE INDEX desk_both ON desk (id, name)')",
            "op.execute('DROP INDEX desk_name')",
            "op.execute('CREATE VIEW desks AS SELECT id FROM desk')",
            "pass",
            "op.drop_table('gone')\nadditive = True",
        ],
    )
    async def test_older_code_goes_on_beside_what_was_added(self, deploys: Deploys, body: str) -> None:
        """The newer version is current, the older one is told that the store is newer, and runs nothing."""
        deploys.add("0002", "0001", f"    {body}")
        await deploys.deploy(deploys.new)

        assert await deploys.stand_of(deploys.new) == "current"
        assert await deploys.stand_of(deploys.old) == "newer"
        await deploys.deploy(deploys.old)
        assert await deploys.stand_of(deploys.new) == "current"

    @pytest.mark.parametrize(
        "body",
        [
            "op.drop_table('gone')",
            "op.rename_table('gone', 'away')",
            "op.execute('ALTER TABLE desk RENAME COLUMN name TO title')",
            "op.execute('CREATE UNIQUE INDEX desk_one ON desk (name)')",
            "op.execute('CREATE UNIQUE INDEX desk_one ON desk (lower(name))')",
            "op.execute('ALTER TABLE desk DROP COLUMN name')",
            "op.execute('ALTER TABLE desk ADD COLUMN other BIGINT REFERENCES gone (id)')",
            "pass\nadditive = False",
        ],
    )
    async def test_older_code_is_refused_when_something_changed(self, deploys: Deploys, body: str) -> None:
        """What was there is gone, has another form, or has a new rule on it; or the script's author says so."""
        if "DROP COLUMN" in body:
            body = "op.execute('DROP INDEX desk_name'); " + body
        deploys.add("0002", "0001", f"    {body}")
        await deploys.deploy(deploys.new)

        assert await deploys.stand_of(deploys.new) == "current"
        assert await deploys.stand_of(deploys.old) == "ahead"

    async def test_every_script_on_the_way_counts(self, deploys: Deploys) -> None:
        """Two additions are an addition; an addition after a change is none."""
        deploys.add("0002", "0001", "    op.add_column('desk', sa.Column('a', sa.Integer))")
        deploys.add("0003", "0002", "    op.add_column('desk', sa.Column('b', sa.Integer))")
        await deploys.deploy(deploys.new)
        both = await deploys.stand_of(deploys.old)
        deploys.add("0004", "0003", "    op.drop_table('gone')")
        deploys.add("0005", "0004", "    op.add_column('desk', sa.Column('c', sa.Integer))")
        await deploys.deploy(deploys.new)

        assert both == "newer"
        assert await deploys.stand_of(deploys.old) == "ahead"
