"""Pool: for each flow a few dozen valid requests, the same in every process, made once for a drill.

    schema ──► strategies.py, another process ──► values ──► what the gateway would refuse is dropped ──► at most 52
                                                                                                          │
    index of a draw   0 .. 25 bodies that their author gave as examples                                   │
                     26 .. 51 examples of fields, few and small values             simplest first  ◄──────┘
                     52 .. 63 the ends of what the types take

A run only picks: drawing from Hypothesis at that moment would take milliseconds for each request, and would tie a
schedule to Hypothesis's own chance, which shrinking could not lower. Every index has a request, whatever kinds there are,
and index 0 is the simplest of all. A pool is plain JSON, so that a recorded failure can carry the pools it was found with
and be replayed without Hypothesis, or with another version of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from zlib import crc32

from dujiang.drill.workload.request import unsendable
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dujiang.drill.workload.contract import Flow
    from dujiang.drill.workload.schema import Slot

__all__ = ["HIGH", "HypothesisMissing", "Kept", "Kind", "Pool", "WorkloadFailed", "kept_of"]

Kind: TypeAlias = Literal["example", "plain", "limit"]
Parts: TypeAlias = "dict[str, Any]"
# What is recorded of a pool: kind and parts of each request, simplest first.
Kept: TypeAlias = "list[tuple[Kind, Parts]]"

HIGH = 63
SHARES: dict[Kind, int] = {"example": 26, "plain": 26, "limit": 12}
MEMBERS: dict[Kind, int] = {"example": 16, "plain": 24, "limit": 12}
# A second, longer round for flows whose validators refuse most of the first one.
ROUNDS = (80, 500)
ENOUGH = 4
PROGRAM = "dujiang.drill.workload.strategies"
WAIT_S = 300


@dataclass(eq=False, kw_only=True)
class HypothesisMissing(DujiangError):
    """The drill makes its requests with Hypothesis, which is not installed."""

    code = "hypothesis_missing"
    move = "fix"
    says = "the drill makes its requests with Hypothesis, and {python} has no such package"
    cure = "run: {python} -m pip install 'dujiang[drill]'"

    python: str


@dataclass(eq=False, kw_only=True)
class WorkloadFailed(DujiangError):
    """The program that makes the requests of a drill ended with an error."""

    code = "workload_failed"
    move = "report"
    says = "making the requests of the drill failed: {why}"

    why: str


class Pool:
    """The requests of one flow.

    Args:
        flow: Of which.
        kept: Kind and parts of each request, simplest first; at least one.
    """

    def __init__(self, flow: Flow, kept: Kept) -> None:
        self.flow = flow
        self.kept = kept
        self.slots: list[tuple[Slot, ...]] = [
            tuple(
                replace(slot, exampled=slot.exampled or (kind == "example" and not slot.typed))
                for slot in flow.slots(parts)
            )
            for kind, parts in kept
        ]
        self._order = order_of([kind for kind, _ in kept])

    def __len__(self) -> int:
        return len(self.kept)

    def at(self, draw: int) -> tuple[Parts, tuple[Slot, ...]]:
        """The request that a draw from 0 to `HIGH` means, and its slots; not to be changed."""
        place = self._order[draw]
        return self.kept[place][1], self.slots[place]


def order_of(kinds: Sequence[Kind]) -> list[int]:
    """The place in the pool for every draw: each kind has its share, and what a missing kind leaves goes to the first.

    Of the plain ones the simple come more often: a larger one differs from it by one more field that nobody asked for, and
    there are many of those.
    """
    places = {kind: [place for place, each in enumerate(kinds) if each == kind] for kind in SHARES}
    present = [kind for kind, each in places.items() if each]
    shares = {kind: SHARES[kind] for kind in present}
    shares[present[0]] += HIGH + 1 - sum(shares.values())
    order: list[int] = []
    for kind in present:
        members, share = places[kind], shares[kind]
        for n in range(share):
            along = (n / share) ** (2 if kind == "plain" else 1)
            order.append(members[int(along * len(members))])
    return order


def kept_of(flows: Sequence[Flow], seed: int) -> tuple[dict[str, Kept], dict[str, str]]:
    """The pools of flows by name, and why some have none.

    Args:
        flows: Those without an obstacle.
        seed: Another seed gives other requests.

    Raises:
        HypothesisMissing: With the command that installs it.
        WorkloadFailed: The program that draws failed.
    """
    pools: dict[str, Kept] = {}
    why: dict[str, str] = {}
    # What takes nothing has one request.
    pools |= {flow.name: [("plain", {})] for flow in flows if not flow.schema["properties"]}
    missing = [flow for flow in flows if flow.name not in pools]
    for count in ROUNDS:
        if not missing:
            break
        drawn = drawn_for(missing, seed, count)
        for flow in missing:
            refused: Counter[str] = Counter()
            pools[flow.name] = chosen(flow, drawn[f"plain {flow.name}"], drawn[f"limit {flow.name}"], refused)
            why[flow.name] = refused.most_common(1)[0][0] if refused else "its types allow no value"
        missing = [flow for flow in missing if len(pools[flow.name]) < ENOUGH and refused_some(drawn, pools, flow)]
    return {name: kept for name, kept in pools.items() if kept}, {n: why[n] for n, kept in pools.items() if not kept}


def refused_some(drawn: Mapping[str, list[Parts]], pools: Mapping[str, Kept], flow: Flow) -> bool:
    """Whether more tries may help: some values were refused, or none came."""
    came = len(drawn[f"plain {flow.name}"]) + len(drawn[f"limit {flow.name}"])
    return not came or came > len(pools[flow.name])


def chosen(flow: Flow, plain: Iterable[Parts], limit: Iterable[Parts], refused: Counter[str]) -> Kept:
    """The valid requests among what was drawn, simplest first; reasons for the others are counted in `refused`."""
    found: Kept = []
    seen: set[str] = set()
    plain = sorted(plain, key=size)
    around = [{**each, "body": None} for each in plain[:3]] or [{}]
    given: list[Parts] = [{**parts, "body": example} for example in flow.examples for parts in around]
    candidates: list[tuple[Kind, list[Parts]]] = [
        ("example", given),
        ("plain", plain),
        ("limit", sorted(limit, key=size)),
    ]
    for kind, many in candidates:
        valid = []
        for parts in many:
            text = json.dumps(parts, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
            if problem := unsendable(parts) or flow.why_not(parts):
                refused[problem] += 1
            else:
                valid.append(parts)
        # Of very many those of all sizes, and the smallest always.
        few = MEMBERS[kind]
        picked = valid if len(valid) <= few else [valid[place * len(valid) // few] for place in range(few)]
        found += [(kind, parts) for parts in picked]
    return found


def size(parts: Parts) -> tuple[int, str]:
    """How simple a request is: the shorter its JSON, the simpler."""
    text = json.dumps(parts, sort_keys=True)
    return len(text), text


def drawn_for(flows: Sequence[Flow], seed: int, count: int) -> dict[str, list[Parts]]:
    """What the other process draws: values by mode and flow."""
    if importlib.util.find_spec("hypothesis") is None:
        raise HypothesisMissing(python=sys.executable)
    spec = importlib.util.find_spec(PROGRAM)
    assert spec is not None
    assert spec.origin is not None
    tasks = [
        {
            "name": f"{mode} {flow.name}",
            "schema": flow.schema,
            "refs": dict(flow.refs),
            "seed": crc32(f"{seed} {mode} {flow.name}".encode()),
            "mode": mode,
            "count": count,
        }
        for flow in flows
        for mode in ("plain", "limit")
    ]
    with tempfile.TemporaryDirectory(prefix="dujiang-drill-") as folder:
        alone = {"PYTHONHASHSEED": "0", "HYPOTHESIS_NO_PLUGINS": "1", "HYPOTHESIS_STORAGE_DIRECTORY": folder}
        # `-P`: the folder of the program is no place to import from; a module `names` there is not meant.
        ended = subprocess.run(  # noqa: S603  (our own program, by its path)
            [sys.executable, "-P", spec.origin],
            input=json.dumps({"tasks": tasks}),
            env={**os.environ, **alone},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=WAIT_S,
            check=False,
        )
    if ended.returncode:
        raise WorkloadFailed(why=(ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1])
    values: dict[str, list[Parts]] = json.loads(ended.stdout)["values"]
    return values
