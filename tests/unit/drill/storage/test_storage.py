"""The storage drill finds planted weaknesses, finds none in what is shipped, and does the same again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from dujiang import App, Model, Module, Tx
from dujiang.backends.sqlite import store, writer
from dujiang.backends.sqlite.file import open_writer as as_shipped
from dujiang.backends.sqlite.member import Member
from dujiang.cli.drill_storage import run_storage, say_storage
from dujiang.drill.storage import Request, StorageReport, storage
from dujiang.drill.storage.life import WorkloadRefused
from dujiang.kernel.entropy import Entropy
from dujiang.systems.shop import app


def weakened(level: str) -> Callable[[str, str], apsw.Connection]:
    """Opens the store as shipped, with another level of `synchronous`."""

    def open_writer(path: str, url: str) -> apsw.Connection:
        driver = as_shipped(path, url)
        driver.pragma("synchronous", level)
        return driver

    return open_writer


class TestWhatIsShipped:
    def test_the_shop_loses_nothing_to_power_cuts_full_disks_and_errors(self) -> None:
        """Forty cuts in all weathers: no promise is lost, none is torn, and every refusal is clear.

        Method: the weather is bad in four of five working lives; the report must show that it was, and that groups
        formed, else nothing was tried.
        """
        report = storage(app, seed=14, cuts=40, full_disk=0.5, errors=0.6)

        assert report.violations == []
        assert report.cuts == 40
        assert report.acknowledged > 150
        assert report.refused > 0
        assert report.disk.full > 0
        assert report.disk.errors > 0
        assert report.commits_synced < 0.75 * report.transactions
        assert any(place.startswith("repair") for place in report.places)

    def test_the_same_seed_does_the_same(self) -> None:
        """Two runs of one seed do the same operations in the same order."""
        first, second = storage(app, seed=5, cuts=8, errors=1.0), storage(app, seed=5, cuts=8, errors=1.0)

        assert first.digest == second.digest
        assert first.digest != storage(app, seed=6, cuts=8, errors=1.0).digest


class TestThatItCanFail:
    def test_a_commit_without_a_sync_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At synchronous=NORMAL acknowledged commits are lost; the violation is found again by its cut alone."""
        monkeypatch.setattr(store, "open_writer", weakened("normal"))

        report = storage(app, seed=2, cuts=30, full_disk=0.0, errors=0.0)
        last = report.violations[-1]
        again = storage(app, seed=2, only=last.cut, full_disk=0.0, errors=0.0)

        assert report.lost > 0
        assert report.corrupt == 0
        assert last in again.violations

    def test_no_sync_at_all_is_found_as_corruption(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At synchronous=OFF files are damaged, not only behind."""
        monkeypatch.setattr(store, "open_writer", weakened("off"))

        report = storage(app, seed=3, cuts=30, full_disk=0.0, errors=0.0)

        assert report.lost > 0
        assert report.corrupt > 0

    def test_an_answer_before_the_sync_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that answers when a body has ended, and not when its group is on the disk, loses promises."""
        as_shipped = writer.Writer._close

        def close(self: writer.Writer, member: Member, error: Exception | None) -> Exception | None:
            seen = as_shipped(self, member, error)
            if member.future is not None and not member.future.done() and self._group is not None:
                member.future.set_result(True)
            return seen

        monkeypatch.setattr(writer.Writer, "_close", close)

        assert storage(app, seed=3, cuts=20, full_disk=0.0, errors=0.0).lost > 0

    @pytest.mark.parametrize("seed", [2, 11])
    def test_a_disk_that_lies_is_seen_to_lose(self, seed: int) -> None:
        """With one sync in five ignored the report says how many, and what was lost by it; with 2 the relay's own row too."""
        report = storage(app, seed=seed, cuts=30, fsync_lie=0.2, full_disk=0.0, errors=0.0)

        assert report.disk.syncs_ignored > 0
        assert report.lost > 0

    def test_a_refusal_without_words_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk that is answered with 500 is a violation, though nothing is lost."""

        def raised(cause: BaseException, url: str, runs: int) -> Exception:
            return RuntimeError("somebody forgot the disk")

        monkeypatch.setattr(writer, "lost", raised)

        found = storage(app, seed=5, cuts=10, full_disk=1.0, errors=0.0)

        assert {violation.kind for violation in found.violations} == {"refusal"}


class Note(Model):
    """A body."""

    text: str


class TestWorkloads:
    def test_an_app_is_asked_what_its_workload_says(self) -> None:
        """A workload of one's own runs beside the drill's; without one the drill's runs alone."""
        notes = Module("notes")
        seen: list[str] = []

        @notes.write("POST /notes")
        async def keep(tx: Tx, body: Note) -> Note:
            seen.append(body.text)
            return body

        def note(chance: Entropy, key: str) -> Request:
            return Request("POST", "/notes", {"text": key})

        report = storage(App(modules=[notes]), cuts=3, workload=[note])

        assert report.violations == []
        assert seen
        assert storage(cuts=2).acknowledged > 0

    def test_a_workload_that_the_app_refuses_is_told_so(self) -> None:
        """A request that is answered 404 proves nothing; the drill stops and shows both."""

        def wrong(chance: Entropy, key: str) -> Request:
            return Request("POST", "/nowhere", {})

        with pytest.raises(WorkloadRefused, match=r"/nowhere.*404"):
            storage(cuts=2, workload=[wrong])


class TestTheCommand:
    def test_it_prints_the_report_and_ends_with_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        """As JSON it is the report; exit 0 when nothing was found."""
        assert run_storage("dujiang.systems.shop:app", cuts=3, as_json=True) == 0

        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert report["cuts"] == 3
        assert report["violations"] == []

    def test_it_names_the_cut_that_shows_a_loss_again_and_ends_with_1(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With losses the exit code is 1, and the text holds the command that finds the first one again."""
        monkeypatch.setattr(store, "open_writer", weakened("off"))

        assert run_storage("dujiang.systems.shop:app", cuts=30, seed=3, full_disk=0.0, errors=0.0) == 1

        assert re.search(r"--storage --seed 3 --full-disk 0.0 --errors 0.0 --only \d+\n", capsys.readouterr().out)

    def test_a_lying_disk_is_explained(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The text says that what a lying disk loses is lost to every database."""
        say_storage("site:app", StorageReport(seed=1, fsync_lie=0.2))

        assert "no database can promise more than its disk" in capsys.readouterr().out
