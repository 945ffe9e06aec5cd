"""Main: the entry of the command line; every error becomes one message and one exit code.

    dujiang COMMAND ...  ->  command  ->  its exit code
                              | DujiangError     what, code, cure            by exits.py
                              | usage            what, `--help`              64
                              | Ctrl-C           nothing                     130
                              | closed pipe      nothing                     141
                              | anything else    type, message, last line    70

A traceback is for those who ask (`--debug`): everybody else gets what happened and what to do. With `--json` errors are
JSON on stdout too, so a pipeline always reads JSON.
"""

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from dujiang.cli.output import Report

OLDEST_PYTHON = (3, 11)


def run() -> NoReturn:
    """The entry point: run the command line of this process and end it with the exit code."""
    sys.exit(main(sys.argv[1:]))


def main(words: Sequence[str]) -> int:
    """Run one command line; the exit code. Never raises."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        # Before the rest of Dujiang is imported: it uses what older versions lack.
        sys.stderr.write(old_python(sys.version_info[:2]))
        return 78
    from dujiang.cli.exits import INTERRUPTED, PIPE_CLOSED  # noqa: PLC0415
    from dujiang.cli.output import flush, prepare  # noqa: PLC0415

    prepare()
    try:
        try:
            code = guarded(words)
        except BrokenPipeError:
            code = PIPE_CLOSED
        try:
            flush()
        except OSError:
            leave_stdout()
    except KeyboardInterrupt:
        code = INTERRUPTED
    return code


def guarded(words: Sequence[str]) -> int:
    """Run the command and turn what it raises into a message."""
    from dujiang.cli.exits import INTERRUPTED, exit_code_of  # noqa: PLC0415
    from dujiang.cli.output import Report, flush, say_error  # noqa: PLC0415
    from dujiang.kernel.errors import DujiangError  # noqa: PLC0415

    command, debug = without_debug(words)
    as_json = "--json" in command
    try:
        code = invoke(command)
        flush()  # Here, where a full disk or a closed pipe behind stdout still finds its message.
        return code  # noqa: TRY300  (an `else` would put the flush out of reach)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return INTERRUPTED
    except DujiangError as error:
        report = Report.of(error, exit_code_of(error))
        trace: Exception | None = error if debug else None
    except Exception as error:  # noqa: BLE001  (the last resort: whatever it is, the user gets one message)
        report = usage_report(error) or foreign_report(error, exit_code_of(error))
        trace = error if debug else None
    if trace is not None:
        traceback.print_exception(trace)
    say_error(report, as_json=as_json)
    return report.exit_code


def invoke(words: Sequence[str]) -> int:
    """Find the command and run it; what it returns is the exit code."""
    try:
        code = commands()(list(words), standalone_mode=False, prog_name="dujiang")
    except typer.Abort:
        return 130
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None  # typer's own answer to a closed pipe is exit 1.
        return end.code if isinstance(end.code, int) else 70
    return code if isinstance(code, int) else 0


def commands() -> typer.Typer:
    """All commands."""
    from dujiang.cli import (  # noqa: PLC0415
        audit,
        backup,
        cache,
        contracts,
        deadletter,
        doctor,
        drill,
        jobs,
        migrate,
        new,
        routes,
        run,
        sagas,
        schedules,
        up,
    )
    from dujiang.cli.command import Strict  # noqa: PLC0415

    app = typer.Typer(
        name="dujiang",
        help="Serve and look after a Dujiang application. --debug, anywhere, shows tracebacks.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    looks = (doctor.doctor, routes.routes, contracts.contracts, audit.audit, backup.backup, backup.restore)
    for function in (up.up, run.run, new.new, migrate.migrate, *looks, drill.drill, drill.replay):
        app.command(cls=Strict)(function)
    app.add_typer(deadletter.group, name="deadletter", rich_help_panel=None)
    app.add_typer(jobs.group, name="jobs", rich_help_panel=None)
    app.add_typer(sagas.group, name="sagas", rich_help_panel=None)
    app.add_typer(schedules.group, name="schedules", rich_help_panel=None)
    app.add_typer(cache.group, name="cache", rich_help_panel=None)

    @app.callback(invoke_without_command=True)
    def top(
        context: typer.Context,
        *,
        version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    ) -> None:
        if version:
            from importlib.metadata import version as version_of  # noqa: PLC0415

            from dujiang.cli.output import say  # noqa: PLC0415

            say(f"dujiang {version_of('dujiang')}")
            raise typer.Exit(0)
        if context.invoked_subcommand is None:
            context.fail("Missing command.")

    return app


def without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words without `--debug`, and whether it stood among them, before a `--`."""
    end = words.index("--") if "--" in words else len(words)
    return [w for i, w in enumerate(words) if w != "--debug" or i >= end], "--debug" in words[:end]


def usage_report(error: Exception) -> "Report | None":
    """The report of an error of the command line's parser; None for every other error."""
    from dujiang.cli.exits import USAGE  # noqa: PLC0415
    from dujiang.cli.output import Report  # noqa: PLC0415

    if not hasattr(error, "format_message") or getattr(error, "exit_code", None) is None:
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dujiang"
    what = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        what = "Missing command."
    if what == "Missing command." and context is not None:
        names = ", ".join(context.command.list_commands(context))
        return Report(what, f"commands are: {names}; `{path} --help` explains them", "usage", "fix", USAGE)
    option = getattr(error, "option_name", None)
    if option and "Did you mean" not in what and context is not None:
        known = [text for parameter in context.command.params for text in parameter.opts if text.startswith("-")]
        near = difflib.get_close_matches(option, known, n=1)
        what = what.partition(" (Possible")[0] + (f" Did you mean {near[0]!r}?" if near else "")
    return Report(what, f"`{path} --help` shows how it is used", "usage", "fix", USAGE)


def foreign_report(error: Exception, exit_code: int) -> "Report":
    """The report of an error that is not ours: its type, its message, the line that raised it."""
    from dujiang.cli.exits import INTERNAL  # noqa: PLC0415
    from dujiang.cli.output import Report  # noqa: PLC0415

    if isinstance(error, OSError) and exit_code != INTERNAL:
        place = f"{error.filename}: " if error.filename else ""
        cure = "give this user the rights, or another folder with --data" if exit_code == 78 else "make room, try again"
        return Report(f"{place}{error.strerror}", cure, "machine", "fix", exit_code)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    what = f"{type(error).__name__}: {error}{where}"
    return Report(
        what, "this is a bug; run again with --debug and report what it shows", "internal", "report", INTERNAL
    )


def old_python(version: tuple[int, int]) -> str:
    """What to say on a Python that is too old."""
    return (
        f"error: Dujiang needs Python 3.11 or later; this is {version[0]}.{version[1]} [python_old]\n"
        "cure:  install a newer Python, make a virtual environment with it, and install dujiang there\n"
    )


def leave_stdout() -> None:
    """Let stdout lead nowhere, so that the interpreter's own flush at the end does not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
