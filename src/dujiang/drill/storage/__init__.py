"""Storage drill: the power goes while an app works on the embedded store, and nothing that was promised may be lost.

    from dujiang.drill.storage import storage
    report = storage(app, seed=7, cuts=500)

The app's own verbs run, through the whole gateway, with many clients at once, on the shipped store with the shipped
settings; below it lies a disk (disk.py) that notes every write and every sync. From the notes of one life many cuts are
drawn (cut.py); after each, a new copy opens what survived and is asked (life.py, witness.py). Lives follow one another:
what one leaves, the next goes on with, and a start that repairs is cut as well.

Cuts come in rounds. A round follows from the seed and its own number alone, so a violation is found again by running
its round, not all before it. tests/unit/drill/storage/test_storage.py plants weaknesses and sees them found.
"""

from __future__ import annotations

from dujiang.drill.storage.report import StorageReport, Violation
from dujiang.drill.storage.rounds import storage
from dujiang.drill.storage.witness import Request

__all__ = ["Request", "StorageReport", "Violation", "storage"]
