"""The page of a drill: one file that needs nothing but itself, and holds what the report holds, escaped."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from dujiang.drill.drilling import Report
from dujiang.drill.page import write_page
from dujiang.drill.run import Outcome, Scenario
from dujiang.drill.shrink import Smallest
from dujiang.drill.story import Story, told
from dujiang.drill.timeline import CLIENTS, Timeline
from dujiang.drill.violation import Violation
from dujiang.drill.world import Fault

EVIL = "<script>alert('x')</script>&\""
TRACE = [
    (0.0, "ready", "api1.0"),
    (0.0, "ready", "worker1.0"),
    (0.0, "ready", "worker2.0"),
    (0.5, "api1 commit", "1 process_beat"),
    (1.0, "begins", ""),
    (1.0, "asks", "1 client0 POST /orders"),
    (1.001, "takes", "1 api1 POST /orders"),
    (1.002, "api1 commit", "2 d33c5fec291e12fd2a5d54a2aa50c8bd"),
    (1.002, "api1 stale read", f"shop.py:5 sell|shop.py:7 sell|SELECT {EVIL}"),
    (1.003, "kill", "api1.0 shop.py:9 sell"),
    (1.003, "worker1 commit", "3 relay_take"),
    (1.2, "ready", "api1.1"),
    (1.25, "takes", "2 api1 POST /orders"),
    (1.26, "done", "2 201"),
    (1.27, "told", "1 201"),
    (1.3, "heal", ""),
    (6.0, "worker1 commit", "4 process_beat"),
    (7.0, "judged", ""),
    (7.1, "takes", "3 api1 POST /orders"),
]


def story(invariant: str = "nothing-lost", said: str = "event 1 is gone") -> Story:
    """The story of a run with one fault."""
    fault = Fault(1.003, "kill.api1", 4, 1, "api1", "shop.py:9 sell")
    outcome = Outcome(seed="7", faults=[fault], trace=list(TRACE))
    small = Smallest(Scenario(), "7", {("kill.api1", 4): 1}, 9, 12, 0.5)
    return told(Violation(invariant, said), small, outcome)


def timeline() -> Timeline:
    """Its picture's data."""
    found = story().timeline
    assert found is not None
    return found


class TestTimeline:
    def test_a_lane_for_the_clients_and_one_for_each_machine(self) -> None:
        """Also a machine on which nothing happened has a lane; the database has one only when something hit it."""
        assert timeline().lanes == (CLIENTS, "api1", "worker1", "worker2")

    def test_a_call_is_a_bar_from_its_first_try_to_its_answer(self) -> None:
        """The client waited through the death of the machine; the machine's own bar ends there, cut."""
        bars = [(bar.lane, bar.kind, bar.from_s, bar.until_s, bar.cut) for bar in timeline().bars]

        assert bars == [
            (CLIENTS, "call", 1.0, 1.27, False),
            ("api1", "work", 1.001, 1.003, True),
            ("api1", "gone", 1.003, 1.2, False),
            ("api1", "work", 1.25, 1.26, False),
        ]

    def test_points_are_commits_clues_and_faults_with_their_sentence(self) -> None:
        """What came before the run, in the rest after it, and with the checks is no part of the picture."""
        points = [(point.lane, point.kind, point.at_s) for point in timeline().points]

        assert points == [
            ("api1", "commit", 1.002),
            ("api1", "clue", 1.002),
            ("worker1", "own", 1.003),
            ("api1", "fault", 1.003),
        ]
        assert timeline().points[-1].says == story().schedule[0]

    def test_a_run_without_a_trace_has_none(self) -> None:
        """A story that could not be played again has no picture, and nothing is invented."""
        outcome = Outcome(seed="7")

        assert told(Violation("order", "x"), Smallest(Scenario(), "7", {}, 0, 1, 0.0), outcome).timeline is None


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The page of a report whose every text is hostile."""
    report = Report(app=EVIL, flows={EVIL: {"201": 3}}, sites={EVIL: 2}, faults={EVIL: 1})
    report.stories.append(story(EVIL, EVIL))
    report.replays.append(f"/tmp/a b/{EVIL}.djseed")
    report.not_exercised.append(EVIL)
    report.remarks.append(EVIL)
    path = write_page(report, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "report.json").read_text())["violations"][0]["timeline"]["lanes"]
    return path.read_text(encoding="utf-8")


class TestPage:
    def test_it_needs_nothing_but_itself(self, page: str) -> None:
        """No script, no link, no picture or font from elsewhere; the policy forbids them to the browser too."""
        assert not re.search(r"<(script|link|img|iframe|object|embed)\b|\bsrc=|\bhref=|url\(|@import", page)
        assert "default-src 'none'" in page

    def test_whatever_people_wrote_is_text(self, page: str) -> None:
        """A row, a name or a statement with markup in it is shown, not obeyed."""
        assert "<script" not in page
        assert "&lt;script&gt;" in page

    def test_its_picture_is_sound_markup_with_lanes_bars_ticks_and_the_numbered_fault(self, page: str) -> None:
        """The SVG parses; it holds a label for each lane, the cut bar, the commit, and fault 1 with its sentence."""
        (found,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        svg = ET.fromstring(found)
        name = "{http://www.w3.org/2000/svg}"
        texts = [node.text for node in svg.iter(f"{name}text")]
        kinds = [node.get("class") for node in svg.iter()]
        titles = " ".join(node.text or "" for node in svg.iter(f"{name}title"))

        assert [node.text for node in svg.iter(f"{name}text") if node.get("class") == "lane"] == [
            CLIENTS,
            "api1",
            "worker1",
            "worker2",
        ]
        assert {"call", "work", "work cut", "gone", "commit", "own", "cross"} <= set(kinds)
        assert "1" in texts
        assert "kill -9 api1" in titles

    def test_it_says_why_the_cure_and_how_to_replay(self, page: str) -> None:
        """The verdict stands in the heading; a path with a space is quoted."""
        assert "1 violation" in page
        assert "with_for_update" in page
        assert "dujiang replay &#x27;/tmp/a b/" in page
        assert "1 of 9 faults, found in 12 runs" in page
