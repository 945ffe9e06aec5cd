"""`dujiang drill APP --storage`: power cuts under an application on the embedded store; exit 1 when one found something."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.cli.command import DEFAULT_APP
from dujiang.cli.exits import DONE, FAILED
from dujiang.cli.output import coloured, printable, say, say_json

if TYPE_CHECKING:
    from dujiang.drill.storage import StorageReport

VIOLATIONS_SHOWN = 10
PLACES_SHOWN = 12


def run_storage(
    app: str = DEFAULT_APP,
    *,
    cuts: int = 500,
    seed: int = 1,
    fsync_lie: float = 0.0,
    full_disk: float = 0.1,
    errors: float = 0.1,
    only: int | None = None,
    as_json: bool = False,
) -> int:
    """Run the drill and print its report; the exit code.

    Args:
        app: The application, as module:attribute.
        cuts: How many power cuts.
        seed: The same seed does the same again.
        fsync_lie: Share of syncs that the disk ignores.
        full_disk: Share of working lives in which the disk becomes full.
        errors: Share of working lives in which operations of the disk fail.
        only: A cut of an earlier run, to be looked at again.
        as_json: Print JSON.
    """
    from dujiang.cli.load import load_app  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.drill.storage import storage  # noqa: PLC0415

    loaded = load_app(app, folder=Path.cwd())
    shows = not as_json and coloured(sys.stderr)

    def progress(report: "StorageReport") -> None:
        if shows:
            sys.stderr.write(f"\r{report.cuts} cuts, {report.acknowledged} promises, {report.violation_count} broken ")
            sys.stderr.flush()

    report = storage(
        loaded,
        seed=seed,
        cuts=cuts,
        fsync_lie=fsync_lie,
        full_disk=full_disk,
        errors=errors,
        only=only,
        progress=progress,
    )
    if shows:
        sys.stderr.write("\r\x1b[K")
    if as_json:
        say_json(report.to_json())
    else:
        say_storage(app, report)
    return FAILED if report.violation_count else DONE


def say_storage(app: str, report: "StorageReport") -> None:
    """Print the report for people."""
    disk = report.disk
    say(f"power cuts under {printable(app)}, seed {report.seed}")
    say(f"  cuts       {report.cuts:,} after {report.lives:,} starts, {report.cuts / max(report.seconds, 0.001):.1f}/s")
    kinds = ("lost", "partial", "phantom", "corrupt")
    found = ", ".join(f"{getattr(report, kind)} {kind}" for kind in kinds)
    say(f"  promises   {report.acknowledged:,} acknowledged: {found}")
    say(f"  commits    {report.transactions:,} transactions in {report.commits_synced:,} groups")
    ignored = f" ({disk.syncs_ignored:,} ignored)" if disk.syncs_ignored else ""
    say(f"  disk       {disk.operations:,} operations, {disk.syncs:,} syncs{ignored}")
    say(
        f"  weather    {disk.full:,} writes met a full disk, {disk.errors:,} operations failed: {report.refused:,} refusals"
    )
    most = sorted(report.places.items(), key=lambda place: -place[1])[:PLACES_SHOWN]
    say(f"  cut at     {', '.join(f'{name} {count}' for name, count in most)}")
    for violation in report.violations[:VIOLATIONS_SHOWN]:
        say(f"{violation.kind} at cut {violation.cut} ({violation.where}): {printable(violation.what)}")
    if report.violation_count > VIOLATIONS_SHOWN:
        say(f"and {report.violation_count - VIOLATIONS_SHOWN} more; --json prints a hundred")
    if report.violations:
        lie = f" --fsync-lie {report.fsync_lie}" if report.fsync_lie else ""
        first = report.violations[0]
        weather = f" --full-disk {report.full_disk} --errors {report.failing}"
        say(f"again: dujiang drill {printable(app)} --storage --seed {first.seed}{lie}{weather} --only {first.cut}")
    if report.fsync_lie:
        say(
            "a disk that says `synced` and is not loses what it acknowledged; no database can promise more than its disk"
        )
