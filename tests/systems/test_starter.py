"""The starter's own tests, which are shipped with it and copied by `dujiang new`, on the stores of this folder."""

from __future__ import annotations

from dujiang.systems.starter.tests.test_starter import (
    test_a_note_is_written_once_and_counted_once,
    test_what_is_no_note_is_refused,
)

__all__ = [
    "test_a_note_is_written_once_and_counted_once",
    "test_what_is_no_note_is_refused",
]
