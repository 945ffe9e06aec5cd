"""Pools: the same everywhere, simplest first, and free of Hypothesis once they are made."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dujiang import App, Module, Tx
from dujiang.drill.workload import HypothesisMissing, Memory, Workload
from dujiang.drill.workload.pool import HIGH, Kind, Pool, order_of
from dujiang.drill.workload.request import unsendable
from dujiang.systems.shop import app as shop
from tests.unit.drill.workload.apps import chance, zero

PROGRAM = """
import json, {extra}
from dujiang.drill.workload import Workload
from tests.unit.drill.workload.apps import Free, posting
made = Workload(posting(Free), seed={seed})
print(json.dumps([made.digest, made.pools]))
"""


def made_elsewhere(hash_seed: str, seed: int = 0, extra: str = "sys", folder: Path | None = None) -> Any:
    """The pools of a write, made by another process that has imported `extra`, which may lie in `folder`."""
    path = os.pathsep.join([*([str(folder)] if folder else []), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(seed=seed, extra=extra)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stdout)


class TestDeterminism:
    def test_every_process_makes_the_same_pools(self) -> None:
        """Neither the seed of hashes nor the modules that happen to be loaded change a request; another seed does.

        Method: one process has imported a module that is full of constants; Hypothesis mixes such constants into what it
        draws in that process. The module lies outside of this folder, because it leaves tests out.
        """
        words = [f"word{number}" for number in range(40)]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "constants.py").write_text(f"WORDS = {words}\nNUMBERS = {list(range(2, 900, 3))}\n")
            one = made_elsewhere("1")
            other = made_elsewhere("4242", extra="constants", folder=Path(folder))
            third = made_elsewhere("1", seed=7)

        assert one == other
        assert one[0] != third[0]

    def test_a_recorded_pool_needs_no_hypothesis(
        self, workload_of_shop: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A workload made from recorded pools makes the same requests, also where Hypothesis is gone."""
        first = workload_of_shop
        recorded = json.loads(json.dumps(first.pools))
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

        second = Workload(shop, pools=recorded)
        requests = [
            [made.request(made.pick(draw), draw, memory).body for _ in range(50)]
            for made in (first, second)
            for draw, memory in [(chance(3), Memory())]
        ]

        assert requests[0] == requests[1]
        assert first.digest == second.digest

    def test_a_missing_hypothesis_is_told_with_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the package the error says how to install it."""
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hypothesis" else found(name))

        with pytest.raises(HypothesisMissing) as caught:
            Workload(shop)

        assert caught.value.hint.endswith("-m pip install 'dujiang[drill]'")


class TestOrder:
    @pytest.mark.parametrize(
        "kinds",
        [
            ["example", "plain", "plain", "limit"],
            ["plain"] * 24 + ["limit"] * 12,
            ["limit"],
            ["example"] * 16 + ["plain"] * 24 + ["limit"] * 12,
        ],
    )
    def test_every_draw_has_a_request_and_lower_ones_are_simpler(self, kinds: list[Kind]) -> None:
        """The order covers all draws, starts with the simplest, never goes back, and reaches every kind."""
        order = order_of(kinds)

        assert len(order) == HIGH + 1
        assert order[0] == 0
        assert order == sorted(order)
        assert {kinds[place] for place in order} == set(kinds)

    def test_most_draws_mean_an_example_or_a_plain_request(self) -> None:
        """The ends of the types have fewer than a fifth of the draws."""
        order = order_of(["example", "plain", "limit"])

        assert order.count(2) < (HIGH + 1) / 5

    def test_requests_of_one_kind_stand_in_the_order_of_their_size(self, workload_of_shop: Workload) -> None:
        """The examples of the author keep their order; what was drawn is sorted by the length of its JSON."""
        flow = workload_of_shop.flows[0]
        kept = workload_of_shop.pools[flow.name]
        sizes = {kind: [len(json.dumps(p)) for k, p in kept if k == kind] for kind in ("plain", "limit")}

        assert kept[0] == ("example", {"body": {"user_id": 123, "items": ["itemA", "itemB"]}})
        assert all(each == sorted(each) for each in sizes.values())
        assert Pool(flow, kept).at(0)[0] == kept[0][1]

    def test_a_pool_is_small(self, workload_of_bank: Workload) -> None:
        """At most 52 requests for each flow, all of them different."""
        for kept in workload_of_bank.pools.values():
            texts = [json.dumps(parts, sort_keys=True) for _, parts in kept]

            assert 1 <= len(texts) <= 52
            assert len(set(texts)) == len(texts)


class TestSending:
    @pytest.mark.parametrize("text", ["", "a/b", "..", ".", "a b", "é", "a%2F", "x" * 201, "a?b", "#"])
    def test_what_cannot_stand_in_a_path_is_left_out(self, text: str) -> None:
        """A path is sent as it stands."""
        assert unsendable({"path": {"name": text}})

    def test_what_can_stand_in_a_path_is_sent(self) -> None:
        """Words, numbers and uuids."""
        assert unsendable({"path": {"a": "itemA", "b": 7, "c": "0190b8f2-7c00-7000-8000-000000000001"}}) == ""

    def test_a_header_is_printable(self) -> None:
        """No line break, no space at its ends, nothing beyond ASCII."""
        assert [bool(unsendable({"header": {"h": text}})) for text in ("yes", "a b", "a\nb", " a", "é")] == [
            False, False, True, True, True,
        ]  # fmt: skip

    def test_a_request_that_takes_nothing_is_made_too(self) -> None:
        """A write without any parameter has one request."""
        module = Module("m")

        @module.write("POST /tick")
        async def tick(tx: Tx) -> None: ...

        made = Workload(App(modules=[module]))
        request = made.request(made.flows[0], zero, Memory())

        assert (request.method, request.path, request.body) == ("POST", "/tick", None)
