"""The parts of the real drill that need no server: options, recovery, figures, the page, and a judge that can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dujiang.drill.options import DrillOptionRefused
from dujiang.drill.real.asked import plan_of
from dujiang.drill.real.faults import Fault
from dujiang.drill.real.load import Call
from dujiang.drill.real.page import html, write_real_page
from dujiang.drill.real.report import Phase, RealReport, Recovery, availability, latencies, lines, percentile
from dujiang.drill.violation import Violation
from dujiang.drill.workload.contract import Flow
from dujiang.drill.workload.request import Request
from dujiang.testing.harness import Response

ASKED: dict[str, Any] = {
    "duration": "90s",
    "rate": 60.0,
    "seed": 1,
    "only": "",
    "pace": 1.0,
    "broker": "rabbitmq",
    "logs": Path("logs"),
}
FLOW = Flow(name="desk.take", verb=None, method="POST", path="/notes", writes=True)
NOTE = Request(method="POST", path="/notes", headers={}, body=b"{}", flow=FLOW)


def call(
    at_s: float, final_at_s: float, by: str = "node1", *, tries: int = 1, failed: int = 0, status: int = 201
) -> Call:
    """A call that ended."""
    return Call(
        "client",
        NOTE,
        "key",
        at_s,
        final=Response(status, {}, b""),
        final_at_s=final_at_s,
        tries=tries,
        by=by,
        failed_tries=failed,
    )


def fault(kind: str, target: str, at_s: float, healed_s: float, held: int = 1) -> Fault:
    """A fault that has healed."""
    return Fault(kind, target, at_s, held, healed_at_s=healed_s)


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "given", "says"),
        [
            ("duration", "soon", "write 90s, 10m or 1h"),
            ("duration", "3s", "write 90s, 10m or 1h"),
            ("broker", "kafka", "rabbitmq, both, sql"),
            ("only", "kill,sabotage", "failover"),
        ],
    )
    def test_what_means_nothing_is_refused_with_what_does(self, option: str, given: str, says: str) -> None:
        """A wrong option is named, and the answer lists what there is."""
        with pytest.raises(DrillOptionRefused) as caught:
            plan_of("shop:app", **{**ASKED, option: given})

        assert caught.value.option == f"--{option}"
        assert says in caught.value.hint

    def test_kinds_are_split_at_commas(self) -> None:
        """Blanks and empty words do no harm."""
        assert plan_of("shop:app", **{**ASKED, "only": " kill, ,hang"}).only == ("kill", "hang")


class TestRecovery:
    def test_it_counts_from_the_healing_to_the_first_work_that_began_later(self) -> None:
        """A call that had begun before the healing, and one of another process, say nothing."""
        calls = [call(9.0, 10.5), call(10.2, 10.3, "node2"), call(11.0, 11.5)]
        struck = fault("kill", "node1", 8.0, 10.0)

        assert Recovery(calls, [], [struck]).of(struck) == pytest.approx(1.5)

    def test_another_fault_in_the_way_begins_the_count_anew(self) -> None:
        """The database dies while a process recovers: what it delays is not this process's."""
        struck, also = fault("kill", "node1", 8.0, 10.0), fault("database_kill", "database", 10.1, 14.0)

        assert Recovery([call(14.5, 15.0)], [], [struck, also]).of(struck) == pytest.approx(1.0)

    def test_a_fault_of_another_process_is_not_in_the_way(self) -> None:
        """Only what a target needs can excuse it."""
        struck, also = fault("kill", "node1", 8.0, 10.0), fault("kill", "node2", 10.1, 14.0)

        assert Recovery([call(14.5, 15.0)], [], [struck, also]).of(struck) == pytest.approx(5.0)

    def test_a_broker_has_recovered_when_a_later_event_is_done(self) -> None:
        """Answers of processes do not count: they need no broker."""
        struck = fault("broker_kill", "broker", 8.0, 10.0)

        assert Recovery([call(10.1, 10.2)], [(9.5, 12.0), (10.5, 13.0)], [struck]).of(struck) == pytest.approx(3.0)

    def test_work_that_never_came_is_not_known(self) -> None:
        """It is no recovery of nought seconds."""
        struck = fault("kill", "node1", 8.0, 10.0)

        assert Recovery([], [], [struck]).of(struck) == -1.0


class TestFigures:
    def test_latencies_belong_to_the_phase_in_which_a_call_began(self) -> None:
        """A call of the calm that ends among faults is one of the calm."""
        phases = [Phase(name="calm", from_s=0.0, until_s=5.0), Phase(name="faults", from_s=5.0, until_s=10.0)]

        found = latencies([call(104.0, 108.0), call(106.0, 106.5)], phases, 100.0)

        assert found["calm"] == {"calls": 1, "p50": 4000.0, "p99": 4000.0, "max": 4000.0}
        assert found["faults"]["p50"] == 500.0

    def test_availability_is_the_share_of_tries_that_were_answered(self) -> None:
        """A window without calls counts as whole."""
        assert availability([call(1.0, 2.0, tries=4, failed=3)], 0.0, 20.0) == [0.25, 1.0]

    @pytest.mark.parametrize(
        ("values", "share", "expected"), [([], 0.5, 0.0), ([3.0], 0.95, 3.0), ([1, 2, 3, 4], 0.5, 3)]
    )
    def test_a_percentile_of_few_is_one_of_them(self, values: list[float], share: float, expected: float) -> None:
        """Nothing is interpolated."""
        assert percentile(values, share) == expected


class TestReport:
    def test_it_says_what_failed_and_how_much_was_hit(self, tmp_path: Path) -> None:
        """Text, JSON and page agree; what comes from the application is escaped."""
        report = RealReport(
            app="shop:app",
            seed=3,
            phases=(Phase(name="calm", from_s=0.0, until_s=30.0),),
            calls={"new": 5},
            answers={201: 5},
            availability=(1.0, 0.5, 1.0),
            faults=[
                {"kind": "kill", "target": "node1", "at_s": 12.0, "held": 2, "healed_s": 1.0, "recovered_s": 0.5},
                {"kind": "kill", "target": "node2", "at_s": 14.0, "held": 0, "healed_s": 1.0, "recovered_s": 9.0},
            ],
            violations=[Violation("stock is conserved", "1 row: <b>")],
        )

        page = write_real_page(report, tmp_path)

        assert "✗ stock is conserved: 1 row: <b>" in lines(report)
        assert "faults      2, of which 1 (50%) hit something in hand" in lines(report)
        assert json.loads((tmp_path / "real.json").read_text())["by_kind"]["kill"]["hit"] == 1
        assert "&lt;b&gt;" in page.read_text()
        assert "<b>" not in html(report)
        assert not report.passed
