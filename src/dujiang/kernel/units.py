"""Units: durations and sizes as people write them, never a bare number."""

from __future__ import annotations

import re
from datetime import timedelta

DURATION_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
NUMBER_AND_UNIT = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]+)")

Duration = str | timedelta


def duration_s(text: Duration) -> float:
    """Seconds of a duration such as "250ms", "10s", "2h". Raises ValueError with the accepted units."""
    if isinstance(text, timedelta):
        return text.total_seconds()
    match = NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in DURATION_S:
        raise ValueError(f"{text!r} is not a duration; write a number and one of {', '.join(DURATION_S)}, as in '10s'")
    return float(match[1]) * DURATION_S[match[2]]


def size_bytes(text: str) -> int:
    """Bytes of a size such as "64KiB" or "1MB". Raises ValueError with the accepted units."""
    match = NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in SIZE_BYTES:
        raise ValueError(f"{text!r} is not a size; write a number and one of {', '.join(SIZE_BYTES)}, as in '1MiB'")
    return int(float(match[1]) * SIZE_BYTES[match[2]])
