"""`dujiang drill APP --real`: the application as real processes on real servers, while everything is killed in turn."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.cli.exits import DONE, FAILED, INTERRUPTED
from dujiang.cli.output import coloured, printable, say, say_aside, say_json

if TYPE_CHECKING:
    from dujiang.drill.real import Plan, RealReport

STEPS = 10


class Ending:
    """Ctrl-C or SIGTERM: the first heals and judges what was done, the second ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def watch(self) -> None:
        """Take the signals; only in a running loop."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def ask() -> None:
            if self.asked and task is not None:
                task.cancel()
            self.asked = True
            say_aside("healing and judging; once more ends at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask)


def run_real(
    app: str,
    *,
    duration: str,
    rate: float,
    seed: int,
    only: str,
    pace: float,
    broker: str,
    out: Path,
    as_json: bool,
) -> int:
    """Run the drill, write its report, print it; the exit code: 1 with violations, 69 when a server is missing."""
    from dujiang.cli.load import load_app  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.drill.options import writable  # noqa: PLC0415
    from dujiang.drill.real import play  # noqa: PLC0415
    from dujiang.drill.real.asked import plan_of  # noqa: PLC0415

    plan = plan_of(app, duration=duration, rate=rate, seed=seed, only=only, pace=pace, broker=broker, logs=out / "logs")
    writable(out)
    loaded = load_app(app, folder=Path.cwd())
    shown = Shown()
    ending = Ending()

    async def run() -> "RealReport":
        ending.watch()
        return await play(loaded, plan, said=shown.said, progress=shown.progress, ended=lambda: ending.asked)

    try:
        report = asyncio.run(run())
    except asyncio.CancelledError:
        return INTERRUPTED
    finally:
        shown.clear()
    return say_real(report, plan, out, as_json=as_json)


def say_real(report: "RealReport", plan: "Plan", out: Path, *, as_json: bool) -> int:
    """Write the files, print the report."""
    from dujiang.drill.real.page import write_real_page  # noqa: PLC0415
    from dujiang.drill.real.report import lines  # noqa: PLC0415

    page = write_real_page(report, out)
    if as_json:
        say_json(json.loads(json.dumps(report.to_json())))
    else:
        say(f"{printable(plan.app)} on real servers for {report.took_s:.0f} s, seed {report.seed}")
        for text in lines(report):
            say(printable(text))
        say(f"report: {page}")
    if not report.passed:
        return FAILED
    return INTERRUPTED if report.interrupted else DONE


class Shown:
    """Progress on stderr: a line that changes on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._terminal = coloured(sys.stderr)
        self._width = 0
        self._last: tuple[str, int] = ("", -1)
        self._faults = 0

    def said(self, text: str) -> None:
        """What is being done; single faults are counted, not listed, but on a terminal."""
        if " " in text and text.split(" ", 1)[0].isidentifier() and self._last[0] == "faults":
            self._faults += 1
        else:
            self.clear()
            say_aside(text)

    def progress(self, phase: str, done: float, total: float) -> None:
        """How far a phase is."""
        step = int(done / total * (100 if self._terminal else STEPS)) if total else 0
        if (phase, step) == self._last:
            return
        self._last = (phase, step)
        text = f"{phase} {done:.0f}/{total:.0f} s" + (f", {self._faults} faults" if self._faults else "")
        if not self._terminal:
            say_aside(text)
            return
        self.clear()
        self._width = len(text)
        sys.stderr.write(text)
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            self._width = 0
