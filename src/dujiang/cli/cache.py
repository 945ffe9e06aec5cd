"""`dujiang cache`: look at what is cached, or put an end to all of it."""

from typing import Annotated

import typer

from dujiang.cli.command import DEFAULT_APP, ConfigFlag, DataFlag, JsonFlag, Strict
from dujiang.cli.deadletter import at_desk
from dujiang.cli.output import printable, say, say_json, say_table

AppFlag = Annotated[str, typer.Option("--app", metavar="APP", help="The application, as module:attribute.")]
COLUMNS = ("read", "hit", "miss", "stale", "loads", "inconsistent")

group = typer.Typer(help="Cached answers of reads: look, drop.", no_args_is_help=True)


@group.command(cls=Strict)
def show(
    *, app: AppFlag = DEFAULT_APP, as_json: JsonFlag = False, data: DataFlag = None, config: ConfigFlag = None
) -> int:
    """Show what is cached: by the process that owns the embedded store, or in the Redis that processes share."""
    found = at_desk(app, data, config, lambda desk: desk.cached())
    if as_json:
        say_json(found)
        return 0
    if server := found.get("server"):
        say_table(("cache", ""), [[name, printable(value)] for name, value in server.items()])
        say("what became of reads is counted by each process: GET /_dj/cache, or dujiang_cache_* under /metrics")
        return 0
    trusted = "given" if found["trusted"] else "not given: the log of changes cannot be read"
    say(f"{found['entries']} answers, {found['bytes']} of {found['limit_bytes']} bytes; {trusted}")
    rows = [[printable(name), *(counts[column] for column in COLUMNS[1:])] for name, counts in found["reads"].items()]
    say_table(COLUMNS, rows)
    return 0


@group.command(cls=Strict)
def drop(
    *, app: AppFlag = DEFAULT_APP, as_json: JsonFlag = False, data: DataFlag = None, config: ConfigFlag = None
) -> int:
    """Put an end to every cached answer, in every process; for data that was changed without tx.forget."""
    at_desk(app, data, config, lambda desk: desk.drop())
    if as_json:
        say_json({"dropped": True})
    else:
        say("every cached answer is dropped; other processes follow within a second")
    return 0
