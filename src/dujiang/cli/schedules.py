"""`dujiang schedules`: when each is due, what it did; pause it, run it now, make up for times that were missed."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dujiang.cli.command import DEFAULT_APP, ConfigFlag, DataFlag, JsonFlag, Strict
from dujiang.cli.deadletter import AppFlag, at_desk
from dujiang.cli.output import printable, say, say_json, say_table

COLUMNS = ("name", "when", "tz", "state", "next", "last", "misfire", "overlap")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that `list` shows.")]

group = typer.Typer(help="Jobs of the clock: when they are due, pause, resume, run, backfill.", no_args_is_help=True)


@group.command("list", cls=Strict)
def list_schedules(
    *, app: AppFlag = DEFAULT_APP, as_json: JsonFlag = False, data: DataFlag = None, config: ConfigFlag = None
) -> int:
    """List schedules with their next and last times, UTC."""
    rows = at_desk(app, data, config, lambda desk: desk.schedules())
    if as_json:
        say_json({"schedules": rows})
    elif not rows:
        say("no schedules")
    else:
        say_table(COLUMNS, [["-" if row.get(name) in (None, "") else row[name] for name in COLUMNS] for row in rows])
    return 0


@group.command(cls=Strict)
def show(
    name: Name,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Show one schedule with its next five times and its last firings."""
    found = at_desk(app, data, config, lambda desk: desk.schedule(name))
    if as_json:
        say_json(found)
        return 0
    for key, value in found.items():
        if key == "upcoming":
            say(f"{key:<14}{', '.join(value) or '-'}")
        elif key != "fires":
            say(f"{key:<14}{'-' if value in (None, '') else printable(str(value))}")
    if found["fires"]:
        columns = ("due", "how", "state", "job", "made")
        say_table(columns, [["-" if fire[each] is None else fire[each] for each in columns] for fire in found["fires"]])
    return 0


@group.command(cls=Strict)
def pause(
    name: Name,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Fire nothing more of a schedule; jobs that are there run on."""
    return turned((app, data, config), name, "pause", "paused", as_json=as_json)


@group.command(cls=Strict)
def resume(
    name: Name,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Let a schedule go on from now; what fell into the pause is not made up for."""
    return turned((app, data, config), name, "resume", "resumed", as_json=as_json)


@group.command(cls=Strict)
def run(
    name: Name,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Ask for one run now, whatever the time and the pause; a process with the role scheduler makes it."""
    return turned((app, data, config), name, "run", "asked for one run of", as_json=as_json)


@group.command(cls=Strict)
def backfill(
    name: Name,
    *,
    first: Annotated[str, typer.Option("--from", metavar="TIME", help="As 2026-03-01T00:00:00Z.")],
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="The same; both are included.")],
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Ask for every time of a range that has not fired, at most 1000 at once; asked twice, it is done once."""
    given = {"first": first, "until": until}
    return turned((app, data, config), name, "backfill", "asked for times of", given, as_json=as_json)


def turned(
    where: tuple[str, str | None, Path | None],
    name: str,
    what: str,
    word: str,
    given: dict[str, str] | None = None,
    *,
    as_json: bool,
) -> int:
    """Do one thing with a schedule, and say so."""
    said: dict[str, Any] = at_desk(*where, lambda desk: desk.turn(name, what, given or {}))
    if as_json:
        say_json({"name": name, "done": what, **said})
    else:
        count = f": {said['asked']}" if "asked" in said else ""
        say(f"{word} {name}{count}")
    return 0
