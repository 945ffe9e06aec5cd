"""Plant: a copy of the product and of the planted applications with one bug in it, for a process of its own.

    with planted(bug) as planting:
        done = planting.run("-m", "dujiang.cli", "drill", bug.app, "--json")

The copy stands before the installed package on the search path, and the process runs inside it, so that neither an editable
install nor the checkout can be met instead. What is imported here is never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.planted.bug import Bug

ROOT = Path(__file__).resolve().parents[2]


class NotPlantable(ValueError):
    """The right text of a bug is not in its file exactly once."""


@dataclass(frozen=True)
class Planting:
    """A folder with a planted bug.

    Attributes:
        folder: Holds `dujiang` and `bench/planted`; to be the working directory of whoever runs there.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that sees the bug; bytecode stays out of the checkout."""
        return {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(
        self, *arguments: str, timeout_s: float | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run this Python with arguments inside the folder. Raises subprocess.TimeoutExpired.

        Args:
            arguments: Such as "-m", "dujiang.cli", "audit", "bench.planted.apps.wallet:app".
            timeout_s: When to give up; None = never.
            environment: Further variables.
        """
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def changed(bug: Bug) -> str:
    """The text of the bug's file with the bug in it. Raises NotPlantable."""
    text = (ROOT / bug.where).read_text(encoding="utf-8")
    count = text.count(bug.old)
    if count != 1:
        raise NotPlantable(f"{bug.name}: its right text stands {count} times in {bug.where}, not once")
    return text.replace(bug.old, bug.new)


def place_of(where: str) -> Path:
    """Where a file of the repository stands in a copy: `src` falls away, as in an installed package."""
    path = Path(where)
    return path.relative_to("src") if path.parts[0] == "src" else path


def put(file: Path, text: str) -> None:
    """Write a source and drop what was compiled from the old one: Python compares only its size and its second."""
    file.write_text(text, encoding="utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


def copied(source: Path, target: Path) -> None:
    """Copy a package with its bytecode, but not what a process is compiling right now: that file is gone in a moment.

    Python compiles into `name.pyc.<number>` and renames it; a copy that has listed such a file may not find it any more.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pyc.*"))


@contextmanager
def planted(bug: Bug | None) -> Iterator[Planting]:
    """A temporary copy with `bug` in it; None = the correct one, to be drilled clean. Raises NotPlantable."""
    text = None if bug is None else changed(bug)
    with tempfile.TemporaryDirectory(prefix="dujiang-planted-") as name:
        folder = Path(name)
        copied(ROOT / "src" / "dujiang", folder / "dujiang")
        copied(ROOT / "bench" / "planted", folder / "bench" / "planted")
        shutil.copy(ROOT / "bench" / "__init__.py", folder / "bench" / "__init__.py")
        if bug is not None and text is not None:
            put(folder / place_of(bug.where), text)
        yield Planting(folder)
