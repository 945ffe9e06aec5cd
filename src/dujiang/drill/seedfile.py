"""Seed file: a failing schedule, small enough for a bug report, exact enough to be replayed.

{"format": 1, "app": "shop:app", "seed": "17", "scenario": {...}, "keep": [["kill.worker1", 13, 1]], ...}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dujiang.drill.brokers import CHOICES
from dujiang.drill.run import Scenario
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.drill.tape import Deviation

FORMAT = 1
BYTES_MAX = 1 << 20


@dataclass(eq=False, kw_only=True)
class SeedFileBroken(DujiangError):
    """A replay file cannot be used."""

    code = "seed_file_broken"
    move = "fix"
    says = "{path}: {why}"
    cure = "use a file that `dujiang drill` of this version has written, unchanged"
    exit_code = 65

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class SeedFile:
    """What is needed to replay a failure.

    Attributes:
        app: Its name for `dujiang`.
        seed: The seed.
        scenario: What happens.
        keep: The faults.
        invariant: What fails.
        places: Globals of which every machine has its own: module and name.
        digest: Of the smallest run's history; another one means that something else is running.
        workload: Of the requests that the seed stands for.
        python: The interpreter that found it.
        version: The product's version.
        other: The name of the app's other version, which half of the machines run; empty = there is none.
    """

    app: str
    seed: str
    scenario: Scenario
    keep: dict[Deviation, int]
    invariant: str
    places: tuple[tuple[str, str], ...] = ()
    digest: str = ""
    workload: str = ""
    python: str = ""
    version: str = ""
    other: str = ""

    def save(self, path: Path) -> None:
        """Write it."""
        found = {
            "format": FORMAT,
            **asdict(self),
            "keep": [[*name, value] for name, value in sorted(self.keep.items())],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> SeedFile:
    """Read a replay file. Raises SeedFileBroken, with what is wrong."""

    def broken(why: str) -> SeedFileBroken:
        return SeedFileBroken(path=str(path), why=why)

    try:
        if path.stat().st_size > BYTES_MAX:
            raise broken(f"is larger than {BYTES_MAX} bytes")
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise broken(error.strerror or "cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise broken(f"is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise broken(f"has not the format {FORMAT}")
    try:
        return SeedFile(
            app=text(found, "app"),
            seed=text(found, "seed"),
            scenario=scenario_of(found["scenario"]),
            keep={(str(label), int(number)): int(value) for label, number, value in found["keep"]},
            invariant=text(found, "invariant"),
            places=tuple((str(module), str(name)) for module, name in found.get("places", ())),
            digest=str(found.get("digest", "")),
            workload=str(found.get("workload", "")),
            python=str(found.get("python", "")),
            version=str(found.get("version", "")),
            other=str(found.get("other", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise broken(f"lacks something or has it wrong: {error}") from error


def text(found: dict[str, Any], name: str) -> str:
    """A text of the file."""
    value = found[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is not a text")
    return value


def scenario_of(found: Any) -> Scenario:
    """The scenario of a file. Raises TypeError or ValueError."""
    known = {**found, "only": tuple(found.get("only", ()))}
    if known.get("kind") not in ("sweep", "lull", "random"):
        raise ValueError("scenario.kind is none of sweep, lull, random")
    for name in ("clients", "operations"):
        if not isinstance(known.get(name), int) or not 1 <= known[name] <= 1000:
            raise ValueError(f"scenario.{name} is not a number from 1 to 1000")
    if not isinstance(known.get("faults_s", 0), (int, float)) or not all(
        isinstance(each, str) for each in known["only"]
    ):
        raise ValueError("scenario.faults_s is not a number, or scenario.only not a list of texts")
    if type(known.get("jitter", True)) is not bool or type(known.get("reverse", True)) not in (bool, type(None)):
        raise ValueError("scenario.jitter or scenario.reverse is neither true nor false")
    if known.get("broker", "") not in ("", *CHOICES):
        raise ValueError("scenario.broker is none of " + ", ".join(CHOICES))
    return Scenario(**known)
