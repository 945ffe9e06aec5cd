"""Probes: how fast the disk and the core are right now, and what a process costs.

The disk under a virtual machine is throttled in bursts and the core is shared, so an absolute rate says little a
minute later. The runner therefore takes these probes beside each round, and the claims quote ratios from one round,
never rates from two. Process figures are read from /proc and exist on Linux only.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

BLOCK: Final = b"x" * 4096
AREA_BYTES: Final = 1 << 20
LOOP_COUNT: Final = 300_000


def fsync_per_s(folder: Path, *, for_s: float = 0.4) -> float:
    """Rate of 4 kB overwrite + fdatasync in `folder`, one after another, per second."""
    path = folder / f"probe.{os.getpid()}"
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(handle, b"\1" * AREA_BYTES, 0)
        os.fsync(handle)
        count, first = 0, time.perf_counter()
        while time.perf_counter() - first < for_s:
            os.pwrite(handle, BLOCK, (count * len(BLOCK)) % AREA_BYTES)
            os.fdatasync(handle)
            count += 1
        return count / (time.perf_counter() - first)
    finally:
        os.close(handle)
        path.unlink()


def loops_per_us() -> float:
    """Turns of a fixed Python loop per microsecond: the speed of this core at this moment."""
    first, total = time.perf_counter(), 0
    for number in range(LOOP_COUNT):
        total += number & 7
    return LOOP_COUNT / 1e6 / (time.perf_counter() - first)


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its descendants, MiB. Pages that they share count once per process."""
    return sum(_rss_kb(each) for each in (pid, *descendants(pid))) / 1024


def cpu_s(pid: int) -> float:
    """Processor time of a process and its living descendants, seconds, in steps of one clock tick (10 ms)."""
    return sum(_cpu_s(each) for each in (pid, *descendants(pid)))


def descendants(pid: int) -> list[int]:
    """Children, their children and so on; those that end meanwhile are left out."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in listing.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def _rss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def _cpu_s(pid: int) -> float:
    try:
        # The command's name may hold spaces and brackets; the fields that count stand after its last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
