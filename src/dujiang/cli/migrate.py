"""`dujiang migrate`: bring the database's tables to what the code needs.

The store is opened alone, apart from any running copy: on a server by a connection without the time limits of requests,
on the embedded store by its lock, so a store in use is refused. Each script is a transaction; those before one that fails
stay.

Migrations are not undone, so it is asked first whether this version of the code could start at all: whether it reads what is
stored, and strands nothing (app/stored.py). A `--check` asks that too.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, DataFlag, JsonFlag, settings_of
from dujiang.cli.exits import CONFIG, DONE
from dujiang.cli.output import say, say_json

if TYPE_CHECKING:
    from dujiang.app import App
    from dujiang.app.schema import Standing
    from dujiang.data.migrate import Step
    from dujiang.settings import Settings


def migrate(
    app: AppName = DEFAULT_APP,
    *,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 78 if something is pending.")] = False,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Run the pending migrations."""
    from dujiang.app.schema import Standing, histories, opener_of  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415
    from dujiang.data import migrate as scripts  # noqa: PLC0415
    from dujiang.settings import file_of, masked  # noqa: PLC0415

    settings = settings_of(config, data=data)
    loaded = load_app(app, folder=Path.cwd())
    wanted = histories(loaded.modules)
    opener = opener_of(settings.database)
    path = file_of("database", settings.database)
    if path is not None and check and not path.exists():
        return report(Standing("empty", ("no store yet",)), [], as_json=as_json)  # To look must not make a store.
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)

    async def work() -> "tuple[Standing, list[Step]]":
        standing = await scripts.status(opener, wanted)
        found = Standing(*scripts.overall(standing))
        done: list[Step] = []
        if standing[0].state in ("current", "newer"):  # The platform's own tables, where the messages are.
            await could_start(loaded, settings)
        if not check and found.state in ("empty", "pending"):
            done = await scripts.upgrade(opener, wanted, progress)
            found = Standing(*scripts.overall(await scripts.status(opener, wanted)))
        return found, done

    def progress(step: "Step") -> None:
        if not as_json:
            say(f"done: {step.name} {step.revision}  {step.says}")

    found, done = asyncio.run(work())
    problem = found.problem(masked(settings.database))
    if problem is not None and not check:
        raise problem
    return report(found, done, as_json=as_json)


async def could_start(app: "App", settings: "Settings") -> None:
    """Raise what a start of this version would be refused for because of what is stored."""
    from dujiang.app import Runtime  # noqa: PLC0415
    from dujiang.app.stored import check_store  # noqa: PLC0415

    runtime = Runtime(app, settings)
    await runtime.database.start()
    try:
        await check_store(runtime)
    finally:
        await runtime.database.stop()
        await runtime.node.tasks.close()


def report(found: "Standing", done: "list[Step]", *, as_json: bool) -> int:
    """Print where the store stands now; the exit code."""
    if as_json:
        ran = [{"history": step.name, "revision": step.revision} for step in done]
        say_json({"state": found.state, "names": list(found.names), "done": ran})
    elif not done:
        say(f"{found.state}{': ' if found.names else ''}{', '.join(found.names)}")
    return DONE if found.state in ("current", "newer") else CONFIG
