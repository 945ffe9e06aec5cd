"""`dujiang up`: serve an application, with all its roles, in this process or in several."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, DataFlag, settings_of
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.settings import Settings


@dataclass(eq=False, kw_only=True)
class OneWriter(DujiangError):
    """The database takes one writing process, and several workers were asked for."""

    code = "one_writer"
    move = "fix"
    says = "{workers} workers cannot share {url}: one process owns the embedded store"
    cure = "set `database` to a postgresql:// URL, or run one worker; one process answers many requests at once"

    workers: int
    url: str


def up(
    app: AppName = DEFAULT_APP,
    *,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a Python file changes.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes that serve.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; loopback only.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="TCP port.")] = None,
    data: DataFlag = None,
    database: Annotated[str | None, typer.Option("--database", metavar="URL", help="Where data lives.")] = None,
    config: ConfigFlag = None,
    instance: Annotated[str | None, typer.Option("--instance", metavar="NAME", help="Name of this copy.")] = None,
    child: Annotated[str | None, typer.Option("--child", hidden=True)] = None,
) -> int:
    """Serve an application until SIGTERM or Ctrl-C; print `ready URL` when it answers."""
    settings = settings_of(
        config, workers=workers, host=host, port=port, data=data, database=database, instance=instance
    )
    if child is not None:
        return serve_child(app, settings, child)
    if reload and settings.workers > 1:
        raise typer.BadParameter("--reload works with one worker", param_hint="--workers")
    from dujiang.cli.listen import bound  # noqa: PLC0415  (needs nothing, but only `up` listens)

    with bound(settings.host, settings.port) as listener:
        settings.data.mkdir(parents=True, exist_ok=True)
        if reload or settings.workers > 1:
            given = {"--host": host, "--port": port, "--data": data, "--database": database, "--config": config}
            flags = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
            return supervise(app, settings, listener, flags, reload=reload)
        return serve(app, settings, listener, None)


def serve_child(app: str, settings: "Settings", child: str) -> int:
    """Serve as a worker of a supervisor, on the socket and the pipe that it handed down."""
    listener_number, _, pipe_number = child.partition(",")
    with inherited(listener_number) as listener, inherited(pipe_number) as pipe:
        return serve(app, settings, listener, pipe)


def serve(app: str, settings: "Settings", listener: socket.socket, pipe: socket.socket | None) -> int:
    """Serve with all roles in this process."""
    from dujiang.cli.load import load_app  # noqa: PLC0415  (the server and the app are loaded last)
    from dujiang.cli.serve import Job, announce, run_job  # noqa: PLC0415

    loaded = load_app(app, folder=Path.cwd())
    return run_job(
        Job(app=loaded, settings=settings, listener=listener, pipe=pipe, announce=lambda: announce(settings))
    )


@contextlib.contextmanager
def inherited(number: str) -> Iterator[socket.socket]:
    """The socket behind an inherited file descriptor."""
    try:
        opened = socket.socket(fileno=int(number))
    except (OSError, ValueError):
        raise typer.BadParameter("is given by the supervisor only", param_hint="--child") from None
    os.set_inheritable(opened.fileno(), False)  # noqa: FBT003  (the signature is the library's)
    opened.settimeout(0.0)
    with opened:
        yield opened


def supervise(app: str, settings: "Settings", listener: socket.socket, flags: list[str], *, reload: bool) -> int:
    """Check what one process can check for all, then supervise."""
    import asyncio  # noqa: PLC0415  (a usage error does not pay for it)

    from dujiang.cli.serve import announce  # noqa: PLC0415
    from dujiang.cli.supervise import Supervisor, worker_command  # noqa: PLC0415

    if not reload:
        check_together(app, settings)
    supervisor = Supervisor(
        command=worker_command(app, flags, settings),
        settings=settings,
        listener=listener,
        count=1 if reload else settings.workers,
        reload=reload,
        folder=Path.cwd(),
        ready=lambda: announce(settings),
    )
    return asyncio.run(supervisor.run())


def check_together(app: str, settings: "Settings") -> None:
    """Refuse several workers on a database with one writer, and bring the schema in order once for all of them."""
    import asyncio  # noqa: PLC0415

    from dujiang.app import Runtime  # noqa: PLC0415
    from dujiang.cli.load import load_app  # noqa: PLC0415
    from dujiang.settings import masked  # noqa: PLC0415

    runtime = Runtime(load_app(app, folder=Path.cwd()), settings)
    if not runtime.database.capabilities.many_writers:
        raise OneWriter(workers=settings.workers, url=masked(settings.database))

    async def prepare() -> None:
        await runtime.database.start()
        try:
            await runtime.schema.prepare()
        finally:
            await runtime.database.stop()

    asyncio.run(prepare())
