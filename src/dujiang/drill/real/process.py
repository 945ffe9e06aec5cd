"""Process: one process of the application, on its own port, behind its own links."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from dujiang.testing.processes import send

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOG_LINES = 15


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its own settings of Dujiang, and with these, by their names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DUJIANG_")}
    return kept | {f"DUJIANG_{name.upper()}": value for name, value in settings.items()}


class Process:
    """One process; it can be killed, frozen, stopped and started again under the same name.

    Args:
        name: Its instance name; the next process of this name takes over all its work.
        answers: Whether clients may call it.
        words: What stands behind `dujiang` on the command line.
        port: Where it answers HTTP.
        settings: Its settings, by name.
        folder: Of its data.
        here: Where it runs: the folder from which the application is loaded.
        log: Where it writes; begun anew.

    Attributes:
        starts: How often it was started.
        ready: Whether it answered since its last start.
        frozen: Whether it stands still.
        wanted: Whether it should run; whoever ends it on purpose says no.
        ended: How it ended by itself, each time: exit codes.
    """

    def __init__(
        self,
        name: str,
        *,
        answers: bool,
        words: tuple[str, ...],
        port: int,
        settings: Mapping[str, str],
        folder: Path,
        here: Path,
        log: Path,
    ) -> None:
        self.name = name
        self.answers = answers
        self.port = port
        self.folder = folder
        self.starts = 0
        self.ready = False
        self.frozen = False
        self.wanted = False
        self.ended: list[int] = []
        self._words = words
        self._settings = settings
        self._here = here
        self._log = log
        log.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Process {self.name} on {self.port}, {'running' if self.running else 'not running'}>"

    @property
    def running(self) -> bool:
        """Whether it lives; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int:
        """How it ended; 0 while it runs."""
        return 0 if self._process is None else self._process.poll() or 0

    @property
    def token(self) -> str:
        """The operator's token that it wrote, or nothing."""
        file = self.folder / "operator.token"
        return file.read_text().strip() if file.exists() else ""

    @property
    def last_words(self) -> str:
        """The end of what it wrote."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def start(self) -> None:
        """Start it unless it runs; it is not ready on return."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.starts, self.ready, self.frozen, self.wanted = self.starts + 1, False, False, True
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter, the words of a person who may run commands)
                [sys.executable, "-m", "dujiang.cli", *self._words],
                cwd=self._here,
                env=environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        self.wanted = False
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self.ready = self.frozen = False

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.frozen = False

    def ask_to_stop(self) -> None:
        """SIGTERM: it ends what it has begun, hands back the rest, and ends."""
        self.wanted = self.ready = False
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            send(self._process.pid, number)
