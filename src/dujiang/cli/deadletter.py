"""`dujiang deadletter`: look at work that failed for good, put it back, or give it up."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dujiang.cli.command import (
    DEFAULT_APP,
    ConfigFlag,
    DataFlag,
    JsonFlag,
    Strict,
    settings_of,
)
from dujiang.cli.exits import DATA
from dujiang.cli.output import printable, say, say_json, say_table
from dujiang.kernel.clock import instant
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.cli.desk import Desk

T = TypeVar("T")

PAYLOAD_LIMIT_BYTES = 16 * 1024 * 1024
COLUMNS = ("id", "died", "subscription", "event", "key", "attempts", "reason", "error")
ERROR_WIDTH = 60

# The application is an option and not an argument: the argument of these commands is the letter.
AppFlag = Annotated[str, typer.Option("--app", metavar="APP", help="The application, as module:attribute.")]
LetterId = Annotated[int, typer.Argument(metavar="ID", min=0, help="The id that `list` shows.")]

group = typer.Typer(help="Work that failed for good: look, replay, discard.", no_args_is_help=True)


@dataclass(eq=False, kw_only=True)
class PayloadUnreadable(DujiangError):
    """The file with the new payload cannot be used."""

    code = "payload_unreadable"
    move = "fix"
    exit_code = DATA
    says = "cannot use {file} as a payload: {why}"
    cure = "name a readable file of at most 16 MiB"

    file: str
    why: str


@group.command("list", cls=Strict)
def list_letters(
    *,
    app: AppFlag = DEFAULT_APP,
    subscription: Annotated[str, typer.Option("--subscription", metavar="NAME", help="Of this one only.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Letters at most.")] = 50,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """List dead letters, oldest first."""
    # One more than is shown tells whether there are more.
    letters = at_desk(app, data, config, lambda desk: desk.list(subscription, limit + 1))
    if as_json:
        say_json({"deadletters": letters[:limit], "more": len(letters) > limit})
    elif not letters:
        say("no dead letters")
    else:
        say_table(COLUMNS, [summary(letter) for letter in letters[:limit]])
        if len(letters) > limit:
            say(f"there are more than {limit}; --limit shows up to 1000")
    return 0


@group.command(cls=Strict)
def show(
    letter: LetterId,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Show one dead letter with its payload."""
    found = at_desk(app, data, config, lambda desk: desk.show(letter))
    if as_json:
        say_json(found)
    else:
        for name, value in found.items():
            shown = instant(value).isoformat() if name.endswith("_us") and isinstance(value, int) else value
            say(f"{name.removesuffix('_us'):<14}{printable(str(shown))}")
    return 0


@group.command(cls=Strict)
def replay(
    letter: LetterId,
    *,
    app: AppFlag = DEFAULT_APP,
    payload: Annotated[Path | None, typer.Option("--payload", metavar="FILE", help="Replaces the message.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Handle it even if it was handled before.")] = False,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Put a dead letter back to its work; its key goes on in order."""
    raw = read_payload(payload) if payload is not None else None
    at_desk(app, data, config, lambda desk: desk.replay(letter, raw, force=force))
    return done(letter, "replayed", as_json=as_json)


@group.command(cls=Strict)
def discard(
    letter: LetterId,
    *,
    app: AppFlag = DEFAULT_APP,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Give a dead letter up; its key goes on without it."""
    at_desk(app, data, config, lambda desk: desk.discard(letter))
    return done(letter, "discarded", as_json=as_json)


def at_desk(app: str, data: str | None, config: Path | None, work: Callable[["Desk"], Awaitable[T]]) -> T:
    """Do one thing at the desk of an application."""
    from dujiang.cli.desk import desk  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415

    settings = settings_of(config, data=data)
    loaded = load_app(app, folder=Path.cwd())

    async def ask() -> T:
        async with desk(loaded, settings) as found:
            return await work(found)

    return asyncio.run(ask())


def read_payload(file: Path) -> bytes:
    """The bytes of the file. Raises PayloadUnreadable."""
    try:
        if file.stat().st_size > PAYLOAD_LIMIT_BYTES:
            raise PayloadUnreadable(file=str(file), why="it is larger than 16 MiB")
        return file.read_bytes()
    except OSError as cause:
        raise PayloadUnreadable(file=str(file), why=cause.strerror or str(cause)) from cause


def summary(letter: dict[str, Any]) -> list[Any]:
    """The row of a letter in a list."""
    error = str(letter.get("error") or "")
    short = error if len(error) <= ERROR_WIDTH else error[: ERROR_WIDTH - 3] + "..."
    died = instant(int(letter["died_us"])).isoformat(timespec="seconds")
    rest = [letter.get(name) for name in ("subscription", "event", "key", "attempts", "reason")]
    return [letter["id"], died, *("-" if value is None else value for value in rest), short]


def done(letter: int, word: str, *, as_json: bool) -> int:
    """Say what was done."""
    if as_json:
        say_json({"id": str(letter), "done": word})
    else:
        say(f"{word} {letter}")
    return 0
