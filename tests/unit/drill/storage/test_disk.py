"""The disk and its cuts: what was synced stays, what was not may come in any mixture, and nothing else happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from dujiang.drill.storage.cut import Surviving
from dujiang.drill.storage.disk import Image, Tally, TwinDisk, Weather
from dujiang.kernel.entropy import SeededEntropy

DRAWS = 300


def disk_at(folder: Path, image: Image | None = None, weather: Weather | None = None) -> TwinDisk:
    """A disk."""
    return TwinDisk(folder, image or {}, weather or Weather(), SeededEntropy("disk"), Tally())


def images(disk: TwinDisk, at: int | None = None) -> list[Image]:
    """Many states that a cut may leave."""
    surviving = Surviving(disk.image, disk.numbered, disk.log)
    surviving.advance(disk.now if at is None else at)
    chance = SeededEntropy("cuts")
    return [surviving.image(chance) for _ in range(DRAWS)]


class TestCuts:
    def test_what_was_synced_is_always_there(self, tmp_path: Path) -> None:
        """A synced write of a file whose folder was synced is in every image."""
        disk = disk_at(tmp_path)
        file = disk.open("a", created=True)
        disk.write(file, 0, b"one")
        disk.sync(file, folder=True)

        assert {image["a"] for image in images(disk)} == {b"one"}

    def test_a_cut_before_the_sync_knows_nothing_of_it(self, tmp_path: Path) -> None:
        """The same log, cut one entry earlier, may have lost everything."""
        disk = disk_at(tmp_path, {"a": b"old"})
        file = disk.open("a", created=False)
        disk.write(file, 0, b"new")
        before = disk.now
        disk.sync(file, folder=False)

        assert {image["a"] for image in images(disk, before)} == {b"old", b"new"}
        assert {image["a"] for image in images(disk)} == {b"new"}

    def test_sectors_survive_in_any_mixture_and_whole(self, tmp_path: Path) -> None:
        """Of two unsynced sectors each may stay without the other; none is ever mixed inside."""
        disk = disk_at(tmp_path, {"a": b"-" * 8192})
        file = disk.open("a", created=False)
        disk.write(file, 0, b"x" * 8192)

        seen = {(image["a"][:4096], image["a"][4096:]) for image in images(disk)}
        halves = {half for pair in seen for half in pair}
        sectors = {half[at : at + 512] for half in halves for at in range(0, 4096, 512)}

        assert (b"x" * 4096, b"-" * 4096) in seen
        assert (b"-" * 4096, b"x" * 4096) in seen
        assert sectors == {b"x" * 512, b"-" * 512}
        assert len(halves) > 2

    def test_later_writes_may_arrive_without_earlier_ones(self, tmp_path: Path) -> None:
        """Between two syncs there is no order."""
        disk = disk_at(tmp_path, {"a": bytes(8192)})
        file = disk.open("a", created=False)
        disk.write(file, 0, b"1")
        disk.write(file, 4096, b"2")

        assert {(image["a"][:1], image["a"][4096:4097]) for image in images(disk)} == {
            (first, second) for first in (b"1", b"\0") for second in (b"2", b"\0")
        }

    def test_a_name_needs_the_folder(self, tmp_path: Path) -> None:
        """A file that was synced but not its folder may be gone; a removed one may be back, with its old content."""
        disk = disk_at(tmp_path, {"old": b"old"})
        file = disk.open("new", created=True)
        disk.write(file, 0, b"new")
        disk.sync(file, folder=False)
        disk.delete("old", folder=False)

        assert {tuple(sorted(image.items())) for image in images(disk)} == {
            (("old", b"old"),),
            (("new", b"new"), ("old", b"old")),
            (("new", b"new"),),
            (),
        }

    def test_a_file_may_be_longer_than_its_content(self, tmp_path: Path) -> None:
        """Where the length arrived and the bytes did not, there are zeros; a truncation may not have happened."""
        disk = disk_at(tmp_path, {"a": b"123456"})
        file = disk.open("a", created=False)
        disk.truncate(file, 3)
        disk.sync(file, folder=False)
        disk.write(file, 3, b"78")

        assert {image["a"] for image in images(disk)} == {b"123", b"12378", b"123\0\0"}


class TestWeather:
    def test_a_lie_leaves_everything_open(self, tmp_path: Path) -> None:
        """A sync that lies is no sync, and is counted."""
        disk = disk_at(tmp_path, {"a": b"old"}, Weather(lie=1.0))
        file = disk.open("a", created=False)
        disk.write(file, 0, b"new")
        disk.sync(file, folder=False)

        assert {image["a"] for image in images(disk)} == {b"old", b"new"}
        assert disk._tally.syncs_ignored == 1

    def test_a_failed_sync_forgets_what_it_did_not_write(self, tmp_path: Path) -> None:
        """After EIO a later sync that succeeds brings nothing back; writing anew does."""
        outcomes = set()
        for number in range(40):
            folder = tmp_path / str(number)
            folder.mkdir()
            weather = Weather(error_in="sync", error_at=1, error_for=1)
            disk = TwinDisk(folder, {"a": b"old"}, weather, SeededEntropy(f"{number}"), Tally())
            file = disk.open("a", created=False)
            disk.write(file, 0, b"new")
            with pytest.raises(OSError, match="the drill"):
                disk.sync(file, folder=False)
            disk.sync(file, folder=False)
            (content,) = {image["a"] for image in images(disk)}
            outcomes.add(content)
            disk.write(file, 0, b"new")
            disk.sync(file, folder=False)
            assert {image["a"] for image in images(disk)} == {b"new"}

        assert outcomes == {b"old", b"new"}

    def test_a_full_disk_takes_what_needs_no_room(self, tmp_path: Path) -> None:
        """Overwriting works; growing is cut short until there is room."""
        disk = disk_at(tmp_path, {"a": b"12345678"}, Weather(full_at=1, full_for=2))
        file = disk.open("a", created=False)

        assert disk.write(file, 0, b"abcd") == 4
        assert disk.write(file, 8, b"efgh") < 4
        assert disk.write(file, 100, b"efgh") < 4
        assert disk.write(file, 8, b"efgh") == 4

    def test_errors_begin_and_end(self, tmp_path: Path) -> None:
        """The n-th write fails, as many as were asked for, and then no more."""
        disk = disk_at(tmp_path, {"a": b""}, Weather(error_in="write", error_at=2, error_for=2))
        file = disk.open("a", created=False)

        disk.write(file, 0, b"1")
        for _ in range(2):
            with pytest.raises(OSError, match="the drill"):
                disk.write(file, 0, b"2")
        assert disk.write(file, 0, b"3") == 1
