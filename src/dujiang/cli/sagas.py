"""`dujiang sagas`: look at sagas, and decide about those that cannot go on by themselves."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dujiang.cli.command import DEFAULT_APP, ConfigFlag, DataFlag, JsonFlag, Strict
from dujiang.cli.deadletter import AppFlag, at_desk, read_payload
from dujiang.cli.output import printable, say, say_json, say_table

COLUMNS = ("id", "saga", "key", "state", "step", "attempt", "updated", "why")
WHY_WIDTH = 60

SagaId = Annotated[int, typer.Argument(metavar="ID", min=0, help="The id that `list` shows.")]
WhyFlag = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept in the saga's timeline.")]
AskedWhyFlag = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept in the saga's timeline; must be given.")]

group = typer.Typer(help="Sagas: look, retry, skip a step, compensate, resume.", no_args_is_help=True)


@group.command("list", cls=Strict)
def list_sagas(
    *,
    app: AppFlag = DEFAULT_APP,
    saga: Annotated[str, typer.Option("--saga", metavar="NAME", help="Of this one only: module.Class.")] = "",
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that need a decision.")] = False,
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=999, help="Sagas at most.")] = 50,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """List sagas, oldest first."""
    found = at_desk(app, data, config, lambda desk: desk.sagas(saga, limit + 1, stuck=stuck, ended=ended))
    if as_json:
        say_json({"sagas": found[:limit], "more": len(found) > limit})
    elif not found:
        say("no sagas")
    else:
        say_table(COLUMNS, [summary(each) for each in found[:limit]])
        if len(found) > limit:
            say(f"there are more than {limit}; --limit shows up to 999")
    return 0


@group.command(cls=Strict)
def show(
    saga: SagaId,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Show one saga with its timeline and its state."""
    found = at_desk(app, data, config, lambda desk: desk.saga(saga))
    if as_json:
        say_json(found)
        return 0
    timeline = found.pop("timeline", [])
    for name, value in found.items():
        say(f"{name:<14}{printable(', '.join(value) if isinstance(value, list) else str(value))}")
    for entry in timeline:
        note = f"  {entry['note']}" if entry.get("note") else ""
        say(printable(f"{entry['at']}  {entry['step'] or '-':<16}{entry['what']}{note}"))
    return 0


@group.command(cls=Strict)
def retry(
    saga: SagaId,
    *,
    app: AppFlag = DEFAULT_APP,
    why: WhyFlag = "",
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Try again what a saga was at."""
    at_desk(app, data, config, lambda desk: desk.decide(saga, "retry", why))
    return done(saga, "retried", as_json=as_json)


@group.command(cls=Strict)
def skip(
    saga: SagaId,
    *,
    app: AppFlag = DEFAULT_APP,
    why: AskedWhyFlag,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Take what a saga was at for done, or for undone, because somebody has seen to it."""
    at_desk(app, data, config, lambda desk: desk.decide(saga, "skip", why))
    return done(saga, "skipped a step of", as_json=as_json)


@group.command(cls=Strict)
def compensate(
    saga: SagaId,
    *,
    app: AppFlag = DEFAULT_APP,
    why: AskedWhyFlag,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Undo what a saga has done, in reverse order."""
    at_desk(app, data, config, lambda desk: desk.decide(saga, "compensate", why))
    return done(saga, "compensating", as_json=as_json)


@group.command(cls=Strict)
def resume(
    saga: SagaId,
    *,
    app: AppFlag = DEFAULT_APP,
    state: Annotated[Path, typer.Option("--state", metavar="FILE", help="The new state, as JSON.")],
    why: AskedWhyFlag,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Replace the state of a saga, and try again what it was at."""
    raw = read_payload(state)
    at_desk(app, data, config, lambda desk: desk.decide(saga, "resume", why, raw))
    return done(saga, "resumed", as_json=as_json)


def summary(saga: dict[str, Any]) -> list[Any]:
    """The row of a saga in a list."""
    why = str(saga.get("why") or "")
    short = why if len(why) <= WHY_WIDTH else why[: WHY_WIDTH - 3] + "..."
    shown = [saga.get(name) for name in ("saga_id", "kind", "key", "state", "step", "attempt", "updated_at")]
    return [*("-" if value in (None, "") else value for value in shown), short]


def done(saga: int, word: str, *, as_json: bool) -> int:
    """Say what was done."""
    if as_json:
        say_json({"id": str(saga), "done": word})
    else:
        say(f"{word} {saga}")
    return 0
