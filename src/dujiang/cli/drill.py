"""`dujiang drill` and `dujiang replay`: prove an application in a simulated cluster, and play a failure again."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dujiang.cli.command import DEFAULT_APP, AppName, JsonFlag
from dujiang.cli.exits import DONE, FAILED, INTERRUPTED
from dujiang.cli.output import coloured, printable, say, say_aside, say_json

if TYPE_CHECKING:
    from dujiang.drill.drilling import Report

HASH_SEED = "PYTHONHASHSEED"


Budget = Annotated[
    str, typer.Option("--budget", metavar="TIME", help="Real time of the random schedules, such as 60s or 5m.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", min=0, metavar="N", help="So many random schedules instead of a budget.")
]
First = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="The first seed.")]
Only = Annotated[str, typer.Option("--only", metavar="FAULTS", help="Only these kinds of faults, joined by commas.")]
Broker = Annotated[
    str, typer.Option("--broker", metavar="BROKER", help="Over which broker events go: sql, rabbitmq or both.")
]
Version = Annotated[
    str, typer.Option("--with-version", metavar="APP", help="Another version of the app, on half of the machines.")
]
Count = Annotated[int, typer.Option("--clients", min=1, max=200, help="Generated clients of a random run.")]
Calls = Annotated[int, typer.Option("--operations", min=1, max=200, help="Calls of each client.")]
Sweep = Annotated[bool, typer.Option("--sweep/--no-sweep", help="Kill at every crash point first.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first violation.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Runs at once; default: the cores.")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where replay files and reports go.")]
Storage = Annotated[
    bool, typer.Option("--storage", help="Cut the power under the embedded store instead: the options below.")
]
Cuts = Annotated[int, typer.Option("--cuts", min=1, max=1_000_000, help="How many power cuts.")]
Lies = Annotated[float, typer.Option("--fsync-lie", min=0.0, max=1.0, help="Share of syncs that the disk ignores.")]
Full = Annotated[
    float, typer.Option("--full-disk", min=0.0, max=1.0, help="Share of lives in which the disk gets full.")
]
Fails = Annotated[float, typer.Option("--errors", min=0.0, max=1.0, help="Share of lives in which the disk fails.")]
Cut = Annotated[int | None, typer.Option("--cut", min=1, help="One power cut of an earlier run, again.")]

Real = Annotated[
    bool, typer.Option("--real", help="Real processes on real servers instead: PostgreSQL, a replica, RabbitMQ.")
]
Duration = Annotated[str, typer.Option("--duration", metavar="TIME", help="Time under load, such as 90s or 10m.")]
Rate = Annotated[float, typer.Option("--rate", min=1, max=2000, metavar="N", help="Calls a second.")]
Pace = Annotated[float, typer.Option("--pace", min=0.1, max=10, help="How much denser than usual the faults come.")]

FOLDER = Path(".drill")


def drill(
    app: AppName = DEFAULT_APP,
    *,
    budget: Budget = "60s",
    seeds: Seeds = 0,
    first: First = 0,
    only: Only = "",
    broker: Broker = "both",
    with_version: Version = "",
    clients: Count = 8,
    operations: Calls = 3,
    sweep: Sweep = True,
    fail_fast: FailFast = False,
    workers: Workers = 0,
    out: Out = FOLDER,
    storage: Storage = False,
    cuts: Cuts = 500,
    fsync_lie: Lies = 0.0,
    full_disk: Full = 0.1,
    errors: Fails = 0.1,
    cut: Cut = None,
    real: Real = False,
    duration: Duration = "90s",
    rate: Rate = 60.0,
    pace: Pace = 1.0,
    as_json: JsonFlag = False,
) -> int:
    """Run the handlers in a simulated cluster, kill them at every await point, then search schedules of faults.

    Exit 0 without violations, 1 with, 130 when it was ended by Ctrl-C or SIGTERM; what was found until then is told.
    """
    if storage:
        from dujiang.cli.drill_storage import run_storage  # noqa: PLC0415

        disk = {"fsync_lie": fsync_lie, "full_disk": full_disk, "errors": errors}
        return run_storage(app, cuts=cuts, seed=first or 1, only=cut, as_json=as_json, **disk)
    if real:
        from dujiang.cli.drill_real import run_real  # noqa: PLC0415

        asked: dict[str, Any] = {"duration": duration, "rate": rate, "pace": pace, "broker": broker}
        return run_real(app, seed=first or 1, only=only, out=out, as_json=as_json, **asked)
    settled_hashes()
    end_by_signals()
    from dujiang.cli.load import load_app  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.drill.calling import drill as drilled  # noqa: PLC0415

    loaded = load_app(app, folder=Path.cwd())
    line = Line(quiet=as_json)
    effort: dict[str, Any] = {"seeds": seeds, "budget": budget, "first": first, "sweep": sweep, "fail_fast": fail_fast}
    scenario: dict[str, Any] = {"only": only, "broker": broker, "clients": clients, "operations": operations}
    if with_version:
        scenario["with_version"] = load_app(with_version, folder=Path.cwd())
    told: dict[str, Any] = {"name": app, "folder": out, "workers": workers, "said": line.say, "progress": line.show}
    report = drilled(loaded, **effort, **scenario, **told)
    line.clear()
    return say_report(report, out, as_json=as_json)


def say_report(report: "Report", out: Path, *, as_json: bool) -> int:
    """Write the page, print what is left to say, and the exit code."""
    from dujiang.drill.page import write_page  # noqa: PLC0415
    from dujiang.drill.summary import summary  # noqa: PLC0415

    pages = write_page(report, out)
    if as_json:
        say_json(report.to_json())
    else:
        for text in summary(report):
            say(printable(text))
        say(f"report: {pages}")
    if report.interrupted:
        return INTERRUPTED
    return DONE if report.passed else FAILED


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .djseed file.")],
    *,
    trace: Annotated[bool, typer.Option("--trace", help="Print every event of the run.")] = False,
    pdb: Annotated[
        bool, typer.Option("--pdb-before-violation", help="Stop in the debugger at the last fault before it fails.")
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Play a failing schedule again. Exit 1 when it still fails, 0 when it does not."""
    settled_hashes()
    end_by_signals()
    from dujiang.cli.load import load_app  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.drill.replaying import replayed  # noqa: PLC0415
    from dujiang.drill.seedfile import load  # noqa: PLC0415

    seed = load(file)
    loaded = load_app(seed.app, folder=Path.cwd())
    other = load_app(seed.other, folder=Path.cwd()) if seed.other else None
    found = replayed(loaded, seed, other=other, stop_at_last=pdb)
    if as_json:
        say_json(found.to_json(trace=trace))
        return FAILED if found.fails else DONE
    if trace:
        for at_s, kind, said in found.outcome.trace:
            say(f"{at_s:10.4f}  {kind}  {printable(said)}")
    for text in found.story.lines() if found.story is not None else []:
        say(printable(text))
    for text in found.remarks:
        say_aside(text)
    if not found.fails:
        say(f"it does not fail any more: {seed.invariant}")
    return FAILED if found.fails else DONE


def end_by_signals() -> None:
    """Let SIGTERM end a drill as Ctrl-C does: copies killed, folders removed, what was found told."""

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def settled_hashes() -> None:
    """Begin again with fixed hashes of texts, so that sets of them have the same order in every drill and replay."""
    if (
        os.environ.get(HASH_SEED) != "0"
        and not hasattr(sys, "ps1")
        and sys.argv[0].endswith(("dujiang", "__main__.py"))
    ):
        again([sys.executable, "-m", "dujiang.cli", *sys.argv[1:]])


def again(words: list[str]) -> NoReturn:
    """Put another process in the place of this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(words[0], words, {**os.environ, HASH_SEED: "0"})  # noqa: S606  (our own interpreter, our own words)


class Line:
    """One line of progress on a terminal; in a pipe a line now and then.

    Args:
        quiet: Whether stdout is for JSON; then everything goes to stderr.
    """

    STEPS = 10

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = coloured(sys.stderr)
        self._shown = ""
        self._last: tuple[str, int] = ("", -1)

    def say(self, text: str) -> None:
        """Write a line for people."""
        self.clear()
        (say_aside if self._quiet else say)(printable(text))
        if not self._quiet and sys.stdout is not None:
            sys.stdout.flush()

    def show(self, phase: str, done: float, total: float) -> None:
        """Show how far a phase is."""
        share = done / total if total else 0.0
        step = (phase, int(share * (100 if self._terminal else self.STEPS)))
        if step == self._last:
            return
        self._last = step
        text = f"{phase} {done:.0f}/{total:.0f}"
        if self._terminal:
            self.clear()
            self._shown = text
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            say_aside(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            sys.stderr.flush()
            self._shown = ""
