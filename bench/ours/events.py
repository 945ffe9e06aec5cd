"""Our side of `events`: `dujiang up` with post.py is the worker, and takes the messages over HTTP from sender.py.

So each of our messages pays for an HTTP request, which the peers' senders do not: they write to the database.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.ours.command import up
from bench.processes import Command, free_port, wait_answer

if TYPE_CHECKING:
    import subprocess

REMAINING = """
SELECT (SELECT count(*) FROM dj_ready) + (SELECT count(*) FROM dj_running)
     + (SELECT count(*) FROM dj_outbox WHERE seq > (SELECT floor_seq FROM dj_relay))
"""


@dataclass
class Ours:
    """Remembers the port between the worker and the senders of one turn."""

    port: int = field(default_factory=free_port)

    def wait_ready(self, name: str, process: subprocess.Popen[bytes]) -> float:
        """Wait for the worker's HTTP side."""
        return wait_answer(name, process, self.port, "/health/ready")

    def command(self, url: str, words: tuple[str, ...]) -> Command:
        """`prepare`, `work` or `send FIRST COUNT GAP_S`, as a command."""
        if words[0] == "prepare":
            self.port = free_port()
            return Command(words=(sys.executable, "-c", ""))  # The worker makes its tables when it starts.
        if words[0] == "work":
            return up("bench.ours.post:app", self.port, url)
        return Command(words=(sys.executable, "-m", "bench.ours.sender", str(self.port), *words[1:]))
