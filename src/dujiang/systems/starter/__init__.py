"""Starter: the least that has every part: one write, one event, one reaction, one read, one invariant.

    POST /api/v1/notes ──► one transaction: the note, NoteWritten
                                  │ relay
                                  ▼
    count_words        ──► one transaction: the note's words, the total

`dujiang new NAME` copies it. Replace the notes by what your system is about, one part at a time.
"""

from __future__ import annotations

from dujiang import App
from dujiang.systems.starter.notes import starter

app = App(modules=[starter], title="Starter")

__all__ = ["app", "starter"]
