"""Report: what a storage drill did and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dujiang.drill.storage.disk import Tally

Fault = Literal["lost", "partial", "phantom", "corrupt", "refusal", "stuck", "crashed"]

VIOLATIONS_KEPT = 100


@dataclass(frozen=True)
class Violation:
    """One thing that should not have been found.

    Attributes:
        kind: `lost` an acknowledged commit is gone or has another answer; `partial` a law of the app or of the drill's
            own workload is broken; `phantom` there is work that nobody asked for; `corrupt` the file is damaged;
            `refusal` an answer was no clear refusal, or came without a cause; `stuck` the store did not recover or its
            work did not end; `crashed` a part of the platform failed with an error that nobody handled.
        what: What was found, with names and numbers.
        seed: Of the drill.
        cut: The number of the cut after which it was found; `storage(seed=seed, only=cut)` finds it again.
        where: The entry of the disk's log at which the power went, or `running` for what was seen before.
    """

    kind: Fault
    what: str
    seed: int
    cut: int
    where: str


@dataclass(kw_only=True)
class StorageReport:
    """The result of a drill.

    Attributes:
        seed: Everything follows from it, and from the three shares below.
        fsync_lie, full_disk, failing: The shares that were asked for.
        cuts: Power cuts after which the store was opened and checked.
        lives: Times that a running copy was started.
        acknowledged: Answers that promised a commit.
        refused: Answers that refused because of a full or failing disk.
        lost, partial, phantom, corrupt: Violations by kind; see `Violation`.
        transactions: Bodies that were run, as the store counts them.
        commits_synced: Groups of them that were committed, with one sync each.
        disk: What was asked of the disks and how often they lied, were full, or failed.
        places: Cuts by what the disk was doing.
        digest: Of every operation of every disk; two runs of one seed have the same.
        seconds: Real time.
        violations: The first hundred.
        violation_count: All of them.
    """

    seed: int
    fsync_lie: float = 0.0
    full_disk: float = 0.0
    failing: float = 0.0
    cuts: int = 0
    lives: int = 0
    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    partial: int = 0
    phantom: int = 0
    corrupt: int = 0
    transactions: int = 0
    commits_synced: int = 0
    disk: Tally = field(default_factory=Tally)
    places: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    violation_count: int = 0

    def add(self, violation: Violation) -> None:
        """Count a violation, and keep it if there is room."""
        self.violation_count += 1
        if violation.kind in ("lost", "partial", "phantom", "corrupt"):
            setattr(self, violation.kind, getattr(self, violation.kind) + 1)
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(violation)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"seconds": round(self.seconds, 3), "places": dict(sorted(self.places.items()))}
