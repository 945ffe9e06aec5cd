"""The token and the address that `up` leaves: private, whole, kept, and gone when they should be."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from dujiang.cli import marks
from dujiang.kernel.entropy import SystemEntropy

if TYPE_CHECKING:
    from pathlib import Path


class TestToken:
    def test_a_token_is_private_and_kept(self, tmp_path: Path) -> None:
        """256 bits, mode 0600, the same after a restart, nothing else left in the folder."""
        token = marks.keep_token(tmp_path, SystemEntropy())

        assert len(token) == 43
        assert stat.S_IMODE((tmp_path / "operator.token").stat().st_mode) == 0o600
        assert marks.keep_token(tmp_path, SystemEntropy()) == token == marks.read_token(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["operator.token"]

    def test_a_token_that_others_could_read_is_drawn_anew(self, tmp_path: Path) -> None:
        """A wider mode, a link, or a text that is no token ends the old one."""
        token = marks.keep_token(tmp_path, SystemEntropy())
        path = tmp_path / "operator.token"

        path.chmod(0o644)
        second = marks.keep_token(tmp_path, SystemEntropy())
        path.write_text("short")
        third = marks.keep_token(tmp_path, SystemEntropy())
        path.rename(tmp_path / "elsewhere")
        path.symlink_to("elsewhere")
        fourth = marks.keep_token(tmp_path, SystemEntropy())

        assert len({token, second, third, fourth}) == 4
        assert not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_18_a_failed_write_leaves_the_old_file_and_no_half_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that is full while the file is written leaves what was there."""
        path = tmp_path / "file"
        marks.write_private(path, "old")

        def full(_file: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            marks.write_private(path, "new")

        assert path.read_text() == "old"
        assert [found.name for found in tmp_path.iterdir()] == ["file"]

    def test_no_token_reads_as_empty(self, tmp_path: Path) -> None:
        """A folder without a token, or with bytes for one, is no error."""
        assert marks.read_token(tmp_path) == ""
        (tmp_path / "operator.token").write_bytes(b"\xff")
        assert marks.read_token(tmp_path) == ""


class TestAddress:
    def test_an_address_is_read_back_and_dropped_by_its_writer_only(self, tmp_path: Path) -> None:
        """A later process's up.json survives the end of an earlier one."""
        marks.keep_address(tmp_path, host="127.0.0.1", port=8001, pid=7)

        marks.drop_address(tmp_path, pid=8)
        assert marks.read_address(tmp_path) == ("127.0.0.1", 8001)
        marks.drop_address(tmp_path, pid=7)
        assert marks.read_address(tmp_path) is None
        marks.drop_address(tmp_path, pid=7)

    @pytest.mark.parametrize("text", ["", "[]", "{}", "5", '{"host": "h", "port": "x"}', '{"host": "h", "port": null}'])
    def test_a_broken_file_is_no_address(self, tmp_path: Path, text: str) -> None:
        """Whatever lies there, reading and dropping do not fail."""
        (tmp_path / "up.json").write_text(text)

        assert marks.read_address(tmp_path) is None
        marks.drop_address(tmp_path, pid=1)

    def test_the_file_says_what_scripts_need(self, tmp_path: Path) -> None:
        """Host, port and pid, as JSON."""
        marks.keep_address(tmp_path, host="::1", port=1, pid=2)

        assert json.loads((tmp_path / "up.json").read_text()) == {"host": "::1", "port": 1, "pid": 2}
