"""A history keeps what it was told, refuses what cannot be, and survives the death of who writes it."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.history import History, HistoryDamaged, HistoryRefused

CLIENT = """
import sys
from pathlib import Path
from dujiang.testing.history import History
history = History(Path(sys.argv[1]))
done = history.invoke("c", "write", key="k", value=[1, {"a": "é"}], at=1.0)
history.ok(done, at=2.0)
history.invoke("c", "write", key="k", value=2, at=3.0)
print("asked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a history goes."""
    return tmp_path / "client.jsonl"


def told(path: Path | None = None) -> History:
    """A history with one operation of each outcome, and one that never ended."""
    history = History(path)
    numbers = [history.invoke("c", "write", key="k", value=[number, None], at=number) for number in range(4)]
    history.ok(numbers[0], {"version": 1, "list": [1, 2.5]}, at=10)
    history.fail(numbers[1], "refused", at=11)
    history.info(numbers[2], "reset", at=12)
    history.close()
    return history


class TestHistory:
    def test_it_keeps_what_it_was_told(self) -> None:
        """Operations stand in the order of their beginnings, with their end, and without one they are unknown for ever."""
        history = told()

        assert [each.outcome for each in history] == ["ok", "fail", "info", "info"]
        assert [each.ended_at for each in history] == [10, 11, 12, math.inf]
        assert history[0].result["list"] == (1, 2.5)
        assert repr(history) == "<History [4 operations: 1 ok, 1 fail, 2 info]>"
        assert str(history[1]) == "c: write 'k' (1, None) -> fail 'refused' [1.000, 11.000] s"

    def test_what_was_recorded_cannot_be_changed(self) -> None:
        """The caller's list may change afterwards; the record does not, and it offers nothing to change."""
        history, given = History(), [1]
        history.invoke("c", "write", value=given, at=0)
        given.append(2)

        assert history[0].value == (1,)
        with pytest.raises(AttributeError):
            history[0].value = 3  # type: ignore[misc]

    def test_the_file_gives_back_the_same_operations(self, path: Path) -> None:
        """What is loaded equals what was recorded, and nothing was torn."""
        history = told(path)

        loaded = History.load(path)

        assert list(loaded) == list(history)
        assert loaded.torn == ""

    def test_a_killed_client_leaves_what_it_had_begun(self, path: Path) -> None:
        """After `kill -9` between the line and the answer, the file holds the operation, and its end is unknown."""
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None
        assert client.stdout.readline() == "asked\n"
        client.send_signal(signal.SIGKILL)
        client.communicate()

        found = History.load(path)

        assert [(each.value, each.outcome) for each in found] == [((1, {"a": "é"}), "ok"), (2, "info")]

    def test_a_file_torn_anywhere_is_read_and_nothing_false_is(self, path: Path, tmp_path: Path) -> None:
        """Cut at every byte, a file loads; what it holds then had been recorded, and what was torn is told."""
        whole = list(told(path))
        data, cut = path.read_bytes(), tmp_path / "cut.jsonl"

        for length in range(len(data) + 1):
            cut.write_bytes(data[:length])
            loaded = History.load(cut)
            for each in loaded:
                assert each == whole[each.op_id] or (each.outcome, each.ended_at) == ("info", math.inf)
            assert loaded.torn.encode() == data[:length].rpartition(b"\n")[2]

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"{", "JSONDecodeError"),
            (b"7", "TypeError"),
            (b'{"op":9,"t":1,"do":"invoke","process":1,"kind":"r","key":null,"value":null}', "where 4 is due"),
            (b'{"op":9,"t":1,"do":"ok","result":1}', "no operation 9"),
            (b'{"op":0,"t":99,"do":"ok","result":1}', "ended already"),
            (b'{"op":3,"t":99,"do":"done","result":1}', "none of invoke"),
            (b'{"op":3,"t":99}', "KeyError"),
            (b'{"history":1}', "once"),
        ],
    )
    def test_a_damaged_line_is_told_with_its_number(self, path: Path, line: bytes, why: str) -> None:
        """Only the last line may be torn: any other that is no record is refused."""
        told(path)
        with path.open("ab") as file:
            file.write(line + b"\n")

        with pytest.raises(HistoryDamaged, match=f"client.jsonl, line 9: .*{why}"):
            History.load(path)

    def test_a_file_of_something_else_is_refused(self, path: Path) -> None:
        """A file that does not begin as a history is none."""
        path.write_text('{"op":0}\n')

        with pytest.raises(HistoryDamaged, match="line 1"):
            History.load(path)

    def test_an_existing_file_is_not_continued(self, path: Path) -> None:
        """A second client gets a file of its own."""
        told(path)

        with pytest.raises(HistoryRefused, match="exists"):
            History(path)

    @pytest.mark.parametrize("value", [b"bytes", {1, 2}, math.nan, math.inf, {1: 2}, object(), [[object()]]])
    def test_what_json_cannot_hold_is_refused_before_it_is_sent(self, path: Path, value: Any) -> None:
        """A value that would not come back the same is refused at `invoke`, and leaves no line."""
        with History(path) as history, pytest.raises(HistoryRefused, match="cannot hold"):
            history.invoke("c", "write", value=value, at=0)

        assert len(history) == 0
        assert len(path.read_bytes().splitlines()) == 1

    def test_what_cannot_be_is_refused(self) -> None:
        """An operation ends once, after it began, at a moment, and only if it began."""
        history = History()
        number = history.invoke("c", "read", at=5)

        for wrong, at in ((number, 4), (7, 9), (-1, 9)):
            with pytest.raises(HistoryRefused):
                history.ok(wrong, at=at)
        with pytest.raises(HistoryRefused, match="no moment"):
            history.invoke("c", "read", at=math.nan)
        history.ok(number, at=5)
        with pytest.raises(HistoryRefused, match="ended already"):
            history.info(number, at=6)

    def test_histories_of_several_clients_become_one(self) -> None:
        """Merged operations stand in the order of their beginnings, with numbers of their own."""
        one, two = History(), History()
        for at in (0, 2):
            one.ok(one.invoke("one", "read", at=at), at=at + 1)
        two.info(two.invoke("two", "read", at=1), at=9)

        merged = History.merged([one, two])

        assert [(each.op_id, each.process, each.outcome) for each in merged] == [
            (0, "one", "ok"),
            (1, "two", "info"),
            (2, "one", "ok"),
        ]

    def test_equal_times_are_concurrent(self) -> None:
        """An operation that ended at the moment in which another began was not before it."""
        history = History()
        first, second = history.invoke("a", "read", at=0), history.invoke("b", "read", at=1)
        history.ok(first, at=1)

        assert not history[first].before(history[second])
