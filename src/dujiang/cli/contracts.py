"""`dujiang contracts`: what the code promises to others, beside what was promised before.

    dujiang contracts [APP]             shows the difference
    dujiang contracts [APP] --check     the same; exit 1 if it breaks anything
    dujiang contracts [APP] --write     writes the file: what is broken by it is accepted, and visible in the commit

The file is `contracts.json` beside the module of the application. `--against` names another one, `-` is stdin: a pipeline
compares with what is deployed, since the file beside the code may have been written anew in the same commit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.command import DEFAULT_APP, AppName, JsonFlag
from dujiang.cli.exits import DONE
from dujiang.cli.output import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.app import App
    from dujiang.contracts.changes import Change

FILE = "contracts.json"
BROKEN = 1


def contracts(
    app: AppName = DEFAULT_APP,
    *,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if something is broken by the difference.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the file as the code is now.")] = False,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FILE", help="Compare with this file; - is stdin.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Compare events, stored names and HTTP bodies with the committed contracts.json."""
    from dujiang.cli.load import load_app  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.contracts.changes import changes  # noqa: PLC0415
    from dujiang.contracts.snapshot import ContractsMissing, joined, parsed, read, snapshot_of, text_of  # noqa: PLC0415

    if write and (check or against is not None):
        raise typer.BadParameter("writes the file, and compares with nothing else", param_hint="'--write'")
    found = load_app(app, folder=Path.cwd())
    path = file_of(app)
    now = snapshot_of(found)
    try:
        if against is not None:
            before = parsed(sys.stdin.read(), "stdin") if against == "-" else read(Path(against))
        else:
            before = read(path)
    except ContractsMissing:
        if not write:
            raise
        path.write_text(text_of(now), encoding="utf-8")
        return report([], written=str(path), as_json=as_json, fresh=True)
    different = changes(before, now, reader_of(found))
    if write:
        path.write_text(text_of(joined(before, now)), encoding="utf-8")
    report(different, written=str(path) if write else "", as_json=as_json)
    return BROKEN if check and any(each.breaks for each in different) else DONE


def file_of(name: str) -> Path:
    """Where the contracts of an application lie; it must have been loaded."""
    module = sys.modules[name.partition(":")[0]]
    return Path(str(module.__file__)).parent / FILE


def reader_of(app: App) -> Callable[[str, int, Any], str]:
    """Reads payloads with the events of an app; why one cannot be read, or nothing."""
    from pydantic_core import to_json  # noqa: PLC0415

    from dujiang.contracts.snapshot import events_of  # noqa: PLC0415
    from dujiang.messaging.contracts import unreadable  # noqa: PLC0415

    events = events_of(app)
    return lambda name, version, payload: unreadable(events[name], version, to_json(payload))


def report(different: list[Change], *, written: str, as_json: bool, fresh: bool = False) -> int:
    """Print the difference."""
    broken = [each.to_json() for each in different if each.breaks]
    if as_json:
        fine = [each.to_json() for each in different if not each.breaks]
        say_json({"written": written, "breaking": broken, "compatible": fine})
        return DONE
    for each in different:
        say(each.line)
    if written:
        say(f"wrote {written}")
    elif not different:
        say("nothing has changed")
    if different and not fresh:
        say(f"{len(broken)} breaking, {len(different) - len(broken)} compatible")
    return DONE
