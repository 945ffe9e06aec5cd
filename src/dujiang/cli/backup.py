"""`dujiang backup` and `dujiang restore`: a copy of the embedded store, out and in.

A store that a process has open is copied by that process, which is asked over HTTP as in desk.py; a path is then one
of its machine, which is this one. Ctrl-C ends the copying there too.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.command import ConfigFlag, DataFlag, JsonFlag, settings_of
from dujiang.cli.exits import DONE
from dujiang.cli.output import coloured, printable, say, say_json

if TYPE_CHECKING:
    from dujiang.app.restore import Restored
    from dujiang.data.backup import Progress
    from dujiang.data.database import StoreInUse
    from dujiang.settings import Settings

LOOK_S = 0.1

DatabaseFlag = Annotated[str | None, typer.Option("--database", metavar="URL", help="The store, if not by settings.")]


def backup(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to be made.")],
    *,
    database: DatabaseFlag = None,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Copy the embedded store, while it works or not, into a new folder."""
    settings = settings_of(config, data=data, database=database)
    place = Path.cwd() / target
    manifest = asyncio.run(backed_up(settings, str(place), as_json=as_json))
    if as_json:
        say_json({"target": str(place), "manifest": manifest})
    else:
        rows = sum(manifest["rows"].values())
        say(f"backup {printable(str(place))}: {size(manifest['bytes'])}, {rows:,} rows, as of {manifest['made']}")
    return DONE


async def backed_up(settings: "Settings", target: str, *, as_json: bool) -> dict[str, Any]:
    """Make the backup, here or in the process that owns the store; its manifest."""
    from importlib.metadata import version  # noqa: PLC0415

    from dujiang.backends.table import load, load_keeper  # noqa: PLC0415
    from dujiang.cli.desk import StoreMissing  # noqa: PLC0415
    from dujiang.data.backup import Backups  # noqa: PLC0415
    from dujiang.data.database import StoreInUse  # noqa: PLC0415
    from dujiang.kernel.node import Node  # noqa: PLC0415
    from dujiang.settings import file_of  # noqa: PLC0415

    node = Node.system("backup")
    backups = Backups(node, lambda: load_keeper(settings.database)(settings.database), version("dujiang"))
    keeper = load_keeper(settings.database)
    keeper(settings.database)  # A server's refuses at once.
    path = file_of("database", settings.database)
    if path is None or not path.exists():
        raise StoreMissing(path=str(path))
    store = load("database", settings.database)(settings.database, node)
    try:
        await store.start()
    except StoreInUse as owner:
        return await asked_owner(owner, settings, target, node.clock.sleep, as_json=as_json)
    try:
        backups.begin(target)
        with shown(backups.standing.progress, as_json=as_json) as show:
            while backups.standing.state == "running":
                show()
                await node.clock.sleep(LOOK_S)
        return (await backups.finished()).to_json()
    finally:
        await backups.stop()
        await node.tasks.close()
        await store.stop()


async def asked_owner(
    owner: "StoreInUse",
    settings: "Settings",
    target: str,
    sleep: Callable[[float], Awaitable[None]],
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Have the process that owns the store make the backup; its manifest."""
    from dujiang.cli.desk import OwnerRefused, RemoteDesk  # noqa: PLC0415
    from dujiang.data.backup import Progress  # noqa: PLC0415

    desk = RemoteDesk(owner, settings)
    standing = desk.ask_object("POST", "/_dj/backup", json.dumps({"target": target}).encode(), "a backup")
    progress = Progress()
    try:
        with shown(progress, as_json=as_json) as show:
            while standing.get("state") == "running":
                progress.stage, progress.done, progress.total = standing["stage"], standing["done"], standing["total"]
                show()
                await sleep(LOOK_S)
                standing = desk.ask_object("GET", "/_dj/backup", None, "a backup")
    except asyncio.CancelledError:
        desk.ask_object("DELETE", "/_dj/backup", None, "a backup")
        raise
    if standing.get("state") == "done" and standing.get("target") == target:
        return dict(standing["manifest"])
    error = standing.get("error") or {"what": "the process was asked for another backup meanwhile", "move": "wait"}
    answered = {"wait": 503, "report": 500}.get(str(error["move"]), 409)
    raise OwnerRefused(what=str(error["what"]), answered=answered, reason=str(error.get("code", "")), url="the owner")


def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder that `backup` made.")],
    *,
    app: Annotated[
        str | None, typer.Option("--app", metavar="APP", help="Also judge the tables of this application's modules.")
    ] = None,
    database: DatabaseFlag = None,
    force: Annotated[bool, typer.Option("--force", help="Put a store that is there aside.")] = False,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Put a backup in the place of the embedded store, which nobody may have open."""
    from dujiang.app.restore import restore as restored  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415
    from dujiang.data.backup import Progress  # noqa: PLC0415
    from dujiang.kernel.node import Node  # noqa: PLC0415

    settings = settings_of(config, data=data, database=database)
    loaded = load_app(app, folder=Path.cwd()) if app is not None else None
    progress = Progress()

    async def work() -> "Restored":
        node = Node.system("restore")
        begun = restored(Path.cwd() / source, settings.database, app=loaded, force=force, progress=progress)
        task = node.tasks.spawn(begun, name="restore")
        with shown(progress, as_json=as_json) as show:
            while not task.done():
                show()
                await asyncio.wait({task}, timeout=LOOK_S)
        return task.result()

    done = asyncio.run(work())
    if as_json:
        say_json(done.to_json())
        return DONE
    say(f"restored {printable(done.path)}: {size(done.manifest.bytes)}, as of {done.manifest.made}")
    if done.aside is not None:
        say(f"the store that was there is now {printable(done.aside)}")
    if done.pending:
        say(f"pending: {printable(', '.join(done.pending))}; `dujiang up` runs them when it starts")
    return DONE


@contextlib.contextmanager
def shown(progress: "Progress", *, as_json: bool) -> Iterator[Callable[[], None]]:
    """A function that shows the progress on a terminal, and nothing elsewhere."""
    shows = not as_json and coloured(sys.stderr)

    def show() -> None:
        if shows:
            sys.stderr.write(f"\r\x1b[K{progress.stage} {size(progress.done)} of {size(progress.total)}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shows:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:,.1f} MiB"
