"""Stopping: the first signal asks, the second ends.

    SIGINT (Ctrl-C), SIGTERM    first: stop cleanly    second: end at once, children killed

An event and not an exception: an exception that comes out of any line at all would cancel a commit half-way.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Stopping:
    """Whether this process was asked to stop.

    Attributes:
        asked: Set by the first signal, or by `ask`.
        signal: The signal that asked; None while nobody did, or when `ask` was called.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self.asked = asyncio.Event()
        self.signal: signal.Signals | None = None
        self._at_once = at_once

    def listen(self) -> None:
        """Take over the signals of this process; for the main thread's loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._hear, number)

    def ask(self) -> None:
        """Stop cleanly."""
        self.asked.set()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, as shells expect; 0 after SIGTERM, because a supervisor that asked got what it wanted."""
        return 128 + signal.SIGINT if self.signal == signal.SIGINT else 0

    def _hear(self, number: signal.Signals) -> None:
        if self.signal is not None:
            self._at_once()
            os._exit(128 + number)  # Asked twice: whatever hangs, hangs in what an ordinary exit would wait for.
        self.signal = number
        self.asked.set()
