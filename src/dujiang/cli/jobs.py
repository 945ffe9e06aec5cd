"""`dujiang jobs`: how many there are of each kind, how each stands, and what can be done with one."""

from typing import Annotated, Any

import typer

from dujiang.cli.command import DEFAULT_APP, ConfigFlag, DataFlag, JsonFlag, Strict, StrictGroup
from dujiang.cli.deadletter import AppFlag, at_desk
from dujiang.cli.output import printable, say, say_json, say_table

STATES = ("ready", "later", "running", "done", "dead", "cancelled", "expired")
COLUMNS = ("id", "kind", "state", "attempt", "progress", "created", "due", "ended", "error", "note")
NOTE_WIDTH = 60

JobId = Annotated[int, typer.Argument(metavar="ID", min=0, help="The id that `list` shows.")]

group = typer.Typer(
    cls=StrictGroup,
    help="Jobs: how many of each kind and state; list, show, cancel, retry.",
    invoke_without_command=True,
)


@group.callback()
def counts(
    context: typer.Context,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Count jobs by kind and state; list, show, cancel or retry them."""
    if context.invoked_subcommand is not None:
        if as_json or data or config or app != DEFAULT_APP:
            context.fail(f"Options stand behind the command: `dujiang jobs {context.invoked_subcommand} ...`.")
        return 0
    found = at_desk(app, data, config, lambda desk: desk.jobs("counts"))
    if as_json:
        say_json({"counts": found})
    elif not found:
        say("no jobs")
    else:
        numbers = {(each["kind"], each["state"]): each["jobs"] for each in found}
        kinds = sorted({kind for kind, _ in numbers})
        say_table(("kind", *STATES), [[kind, *(numbers.get((kind, state), 0) for state in STATES)] for kind in kinds])
    return 0


@group.command("list", cls=Strict)
def list_jobs(
    *,
    app: AppFlag = DEFAULT_APP,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Of this kind only: module.function.")] = "",
    state: Annotated[str, typer.Option("--state", metavar="STATE", help=f"One of {', '.join(STATES)}.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Jobs at most.")] = 50,
    before: Annotated[int, typer.Option("--before", metavar="ID", min=0, help="Only older ones: the next page.")] = 0,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """List jobs, newest first."""
    given = {"name": name, "state": state, "limit": str(limit), "before": str(before)}
    found = at_desk(app, data, config, lambda desk: desk.jobs(**given))
    if as_json:
        say_json(found)
    elif not found["jobs"]:
        say("no jobs")
    else:
        say_table(COLUMNS, [summary(each) for each in found["jobs"]])
        if found["next"]:
            say(f"there are more; --before {found['next']} shows them")
    return 0


@group.command(cls=Strict)
def show(
    job: JobId,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Show one job with its result, its steps and the id of its dead letter."""
    found = at_desk(app, data, config, lambda desk: desk.jobs(str(job)))
    if as_json:
        say_json(found)
        return 0
    steps = found.pop("steps")
    for name, value in found.items():
        say(f"{name:<14}{'-' if value in (None, '') else printable(str(value))}")
    if steps:
        say_table(("step", "bytes", "result"), [[step["name"], step["bytes"], short(step["result"])] for step in steps])
    return 0


@group.command(cls=Strict)
def cancel(
    job: JobId,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Cancel a job: at once if it waits; if it runs it is asked to end."""
    found = at_desk(app, data, config, lambda desk: desk.jobs(str(job), "cancel"))
    word = "cancelled" if found["state"] == "cancelled" else "asked to end:"
    return done(job, word, found["state"], as_json=as_json)


@group.command(cls=Strict)
def retry(
    job: JobId,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Run a dead job again, with a new account of tries: its dead letter is replayed."""
    at_desk(app, data, config, lambda desk: desk.jobs(str(job), "retry"))
    return done(job, "retried", "ready", as_json=as_json)


def summary(job: dict[str, Any]) -> list[Any]:
    """The row of a job in a list."""
    shown = {**job, "note": short(job["note"]), "progress": f"{job['progress']:.0%}"}
    shown["state"] = "cancelling" if job["cancelling"] else job["state"]
    return ["-" if shown[name] in (None, "") else shown[name] for name in COLUMNS]


def short(value: Any) -> str:
    """The beginning of a text for a table."""
    text = str(value)
    return text if len(text) <= NOTE_WIDTH else text[: NOTE_WIDTH - 3] + "..."


def done(job: int, word: str, state: str, *, as_json: bool) -> int:
    """Say what was done."""
    if as_json:
        say_json({"id": str(job), "done": word.rstrip(":"), "state": state})
    else:
        say(f"{word} {job}")
    return 0
