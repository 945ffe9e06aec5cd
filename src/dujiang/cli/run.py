"""`dujiang run`: one process with some of an application's roles, beside others on the same database."""

import contextlib
import difflib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, DataFlag, settings_of
from dujiang.cli.exits import USAGE
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.app.roles import Roles
    from dujiang.settings import Settings


@dataclass(eq=False, kw_only=True)
class RoleUnknown(DujiangError):
    """The command line names a role that does not exist."""

    code = "role_unknown"
    move = "fix"
    exit_code = USAGE
    says = "{name!r} is no role{meant}; there are {known}"
    cure = "name one, or several with commas: dujiang run gateway,relay"

    name: str
    known: str
    meant: str


@dataclass(eq=False, kw_only=True)
class OneProcess(DujiangError):
    """The database takes one process, and the roles that were named are not all of them."""

    code = "one_process"
    move = "fix"
    says = "{url} takes one process, so nobody would run what {roles} leaves out"
    cure = "run `dujiang up`, which has all roles in one process, or set `database` to a postgresql:// URL"

    url: str
    roles: str


def run(
    roles: Annotated[str, typer.Argument(metavar="ROLE[,ROLE...]", help="gateway, write, relay, worker, scheduler.")],
    app: AppName = DEFAULT_APP,
    *,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; loopback only.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="TCP port; without HTTP roles for health and metrics, default none.")
    ] = None,
    data: DataFlag = None,
    database: Annotated[str | None, typer.Option("--database", metavar="URL", help="Where data lives.")] = None,
    config: ConfigFlag = None,
    instance: Annotated[str | None, typer.Option("--instance", metavar="NAME", help="Name of this copy.")] = None,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="TIME", help="What SIGTERM leaves to running work, as 10s.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log lines, `ready` and errors as JSON.")] = False,
) -> int:
    """Run some roles of an application until SIGTERM or Ctrl-C; print `ready ROLES [URL]` when they work.

    SIGTERM: not ready, nothing new is taken, what runs has the grace to end, the rest is run by another process at once.
    A second signal ends at once.
    """
    from dujiang.app.roles import Roles  # noqa: PLC0415  (`--help` does not pay for it)

    chosen = Roles(named(roles))
    given = {"host": host, "port": port, "data": data, "database": database, "instance": instance, "grace": grace}
    settings = settings_of(config, **given, log_format="json" if as_json else None)
    with listening(settings, wanted=bool(chosen.verbs) or port is not None) as listener:
        return work(app, settings, chosen, listener, as_json=as_json)


def named(text: str) -> list[str]:
    """The roles of `gateway,relay`. Raises RoleUnknown."""
    from dujiang.app.roles import ROLES  # noqa: PLC0415

    names = text.split(",")
    for name in names:
        if name not in ROLES:
            near = difflib.get_close_matches(name.lower(), ROLES, n=1)
            raise RoleUnknown(name=name, known=", ".join(ROLES), meant=f" (did you mean {near[0]!r}?)" if near else "")
    return names


@contextlib.contextmanager
def listening(settings: "Settings", *, wanted: bool) -> Iterator[socket.socket | None]:
    """The bound socket of a process that answers, or None."""
    if not wanted:
        yield None
        return
    from dujiang.cli.listen import bound  # noqa: PLC0415

    with bound(settings.host, settings.port) as listener:
        yield listener


def work(app: str, settings: "Settings", roles: "Roles", listener: socket.socket | None, *, as_json: bool) -> int:
    """Check what can be checked before the start, then do the work; the exit code."""
    from dujiang.cli.load import load_app  # noqa: PLC0415
    from dujiang.cli.serve import Job, run_job  # noqa: PLC0415
    from dujiang.settings import masked  # noqa: PLC0415

    shared, loaded = many_processes(settings), load_app(app, folder=Path.cwd())
    if not shared and not roles.whole(schedules=any(getattr(verb, "schedule", None) for verb in loaded.verbs())):
        raise OneProcess(url=masked(settings.database), roles=str(roles))
    settings.data.mkdir(parents=True, exist_ok=True)
    return run_job(
        Job(
            app=loaded,
            settings=settings,
            roles=roles.names,
            listener=listener,
            announce=lambda: announce(settings, roles, listener is not None, as_json=as_json),
            hands_over=shared,
            marks=False,
        )
    )


def many_processes(settings: "Settings") -> bool:
    """Whether the database takes more than one process."""
    from dujiang.backends.table import load  # noqa: PLC0415

    return bool(load("database", settings.database).capabilities.many_writers)


def announce(settings: "Settings", roles: "Roles", answers: bool, *, as_json: bool) -> None:  # noqa: FBT001
    """Say that the process works: one stable line for programs."""
    from dujiang.cli.listen import url_of  # noqa: PLC0415
    from dujiang.cli.output import flush, say  # noqa: PLC0415

    url = url_of(settings.host, settings.port) if answers else ""
    if as_json:
        say(json.dumps({"ready": list(roles.names), "url": url}))
    else:
        say(" ".join(part for part in ("ready", ",".join(roles.names), url) if part))
    flush()
