"""Our side of `events`: the worker is `dujiang up`, the sender a second process on the same store. Both use post.py."""

from __future__ import annotations

import sys

from bench.ours.command import up
from bench.processes import Command, free_port

REMAINING = "SELECT (SELECT count(*) FROM dj_ready) + (SELECT count(*) FROM dj_later)"


def command(url: str, words: tuple[str, ...]) -> Command:
    """`prepare`, `work` or `send FIRST COUNT GAP_S`, as a command."""
    if words[0] == "work":
        return up("bench.ours.post:app", free_port(), url)
    return Command(words=(sys.executable, "-m", "bench.ours.sender", *words), env={"DUJIANG_DATABASE": url})
