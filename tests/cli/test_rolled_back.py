"""A deploy that is taken back, with real processes and waiting work, on both stores: forward, back, and forward again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import APP, Site, Up, dujiang
from tests.cli.test_refusals import assert_one_message
from tests.cli.test_running import eventually

if TYPE_CHECKING:
    from pathlib import Path

HEARD = "op.execute('CREATE TABLE desk_heard (reaction VARCHAR(9) NOT NULL, n BIGINT NOT NULL)')"
NOTED = "op.execute('ALTER TABLE desk_heard ADD COLUMN note VARCHAR(9)')"
CHANGED = "op.execute('ALTER TABLE desk_heard RENAME COLUMN n TO number')"

SOURCE = """
import os
import sqlalchemy as sa
from dujiang import Snooze

heard = sa.table("desk_heard", sa.column("reaction"), sa.column("n"))

class Said(Event{arguments}):
    n: int
    {field}

{step}

async def note(tx, name, event):
    if os.path.exists("hold"):
        open("held-" + name, "w").close()
        raise Snooze("1s")
    await tx.execute(sa.insert(heard).values(reaction=name, n=event.n))

@desk.write("POST /say/{{n}}")
async def say(tx: Tx, n: int) -> int:
    tx.publish(Said(n=n{given}))
    return n

@desk.read("GET /heard/{{reaction}}")
async def read_heard(db: Read, reaction: str) -> list[int]:
    rows = await db.execute(sa.select(heard.c.n).where(heard.c.reaction == reaction).order_by(heard.c.n))
    return [row[0] for row in rows]

@desk.react(Said)
async def hear(tx: Tx, event: Said) -> None:
    await note(tx, "hear", event)

{more}
"""
STEP = """
@Said.upcast(1)
def quiet(payload):
    return {**payload, "loud": False}
"""
MORE = """
@desk.react(Said)
async def also(tx: Tx, event: Said) -> None:
    await note(tx, "also", event)
"""
OLD = SOURCE.format(arguments="", field="", step="", given="", more="")
NEW = SOURCE.format(arguments=", version=2", field="loud: bool", step=STEP, given=", loud=True", more=MORE)
RENAMED = OLD.replace("Said", "Uttered")
UNREADABLE = SOURCE.format(arguments="", field="loud: bool", step="", given=", loud=True", more="")

# Source, flags, the error's code and words.
REFUSED = (
    (UNREADABLE, (), "contract_broken", ("1 waiting", "upcast(1)")),
    (RENAMED, ("--check",), "event_stranded", ("took Said and takes Uttered now", "1 waiting", 'name="Said"')),
    (NEW.replace("async def hear", "async def listen"), (), "names_stranded", ("desk.hear (1 waiting, 0 dead)",)),
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The folder of the application."""
    return Site(tmp_path)


def deploy(site: Site, source: str, *scripts: str) -> None:
    """Put a version of the code into the folder: its source, and its scripts."""
    for found in (site.folder / "scripts").glob("0*.py"):
        found.unlink()
    site.scripts = {f"{number:04}": body for number, body in enumerate(scripts, start=1)}
    site.write(source)


def waiting(site: Site, *reactions: str) -> None:
    """Wait until an event has reached these reactions, which put it off; one that is stopped sooner has it unrouted."""
    eventually(lambda: all((site.folder / f"held-{name}").exists() for name in reactions))


def heard(up: Up, reaction: str = "hear") -> list[int]:
    """What a reaction has handled."""
    found: list[int] = up.request("GET", f"/heard/{reaction}").json
    return found


class TestRolledBack:
    def test_forward_back_and_forward_again(self, site: Site, store: dict[str, str]) -> None:
        """A version that adds a reaction, a column and an event's version is taken back while its events wait.

        The old version starts, does its own work, and says what it leaves; the new one, back again, does the rest at once.
        """
        deploy(site, OLD, HEARD)
        assert dujiang(site.folder, "migrate", APP, **store).code == 0
        with Up(site.folder, APP, **store).started() as up:
            assert up.request("POST", "/say/1").status == 201
            eventually(lambda: heard(up) == [1])
            assert up.stop() == 0
        deploy(site, NEW, HEARD, NOTED)
        assert dujiang(site.folder, "migrate", APP, **store).code == 0
        with Up(site.folder, APP, **store).started() as up:
            assert up.request("POST", "/say/2").status == 201
            eventually(lambda: heard(up) == [1, 2] and heard(up, "also") == [2])
            (site.folder / "hold").touch()
            assert up.request("POST", "/say/3").status == 201
            waiting(site, "hear", "also")
            assert up.stop() == 0
        (site.folder / "hold").unlink()

        deploy(site, OLD, HEARD)
        looked = dujiang(site.folder, "doctor", APP, **store)
        migrated = dujiang(site.folder, "migrate", APP, **store)
        with Up(site.folder, APP, **store).started() as up:
            assert up.request("POST", "/say/4").status == 201
            eventually(lambda: heard(up) == [1, 2, 4])
            wanted = "events of a newer version: 1; left to another version: 1"
            eventually(lambda: up.request("GET", "/health/ready").json["checks"]["reactions"].get("detail") == wanted)
            assert up.stop() == 0
            said = up.err
        deploy(site, NEW, HEARD, NOTED)
        with Up(site.folder, APP, **store).started() as up:
            eventually(lambda: heard(up) == [1, 2, 3, 4] and heard(up, "also") == [2, 3, 4])
            assert up.stop() == 0

        assert looked.code == 0, looked.out
        assert "warning: the tables are at desk 0002" in looked.out
        assert "warning: desk.also is a reaction of another version of the code" in looked.out
        assert "warning: 2 deliveries of Said in version 2 wait for a newer version of the code" in looked.out
        assert (migrated.code, migrated.out) == (0, "newer: desk 0002\n")
        assert (
            "the tables are at desk 0002, which this version of the code does not know; it only added something" in said
        )
        assert "the reaction desk.also is not in this version of the code" in said
        assert "hear met version 2 of Said and knows 1" in said

    def test_a_script_that_changed_something_keeps_the_old_version_out(self, site: Site, store: dict[str, str]) -> None:
        """A column has another name now: the old version is refused before it meets that in a statement."""
        deploy(site, OLD, HEARD)
        assert dujiang(site.folder, "migrate", APP, **store).code == 0
        deploy(site, OLD, HEARD, CHANGED)
        assert dujiang(site.folder, "migrate", APP, **store).code == 0
        deploy(site, OLD, HEARD)

        with Up(site.folder, APP, **store) as up:
            assert not up.ready()
            assert up.wait() == 78
            assert "desk 0002, which this version of the code does not know" in up.err

    def test_migrate_says_what_a_start_would_refuse_and_changes_nothing(
        self, site: Site, store: dict[str, str]
    ) -> None:
        """The new version could not start, so its script is not run, checked or not; the old version goes on.

        Method: three new versions, each with a script: one cannot read what waits, one takes another event, one forgot a
        reaction's name.
        """
        deploy(site, OLD, HEARD)
        assert dujiang(site.folder, "migrate", APP, **store).code == 0
        (site.folder / "hold").touch()
        with Up(site.folder, APP, **store).started() as up:
            assert up.request("POST", "/say/1").status == 201
            waiting(site, "hear")
            assert up.stop() == 0
        (site.folder / "hold").unlink()

        for source, flags, code, words in REFUSED:
            deploy(site, source, HEARD, NOTED)
            refused = dujiang(site.folder, "migrate", APP, *flags, **store)
            assert refused.code == 78
            assert_one_message(refused, code, *words)

        deploy(site, OLD, HEARD)
        assert dujiang(site.folder, "migrate", APP, **store).out == "current\n"
        with Up(site.folder, APP, **store).started() as up:
            eventually(lambda: heard(up) == [1])
            assert up.stop() == 0
