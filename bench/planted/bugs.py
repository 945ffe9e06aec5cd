"""Bugs: the table of all planted bugs; `plant.py` puts one into a copy of the product."""

from __future__ import annotations

from bench.planted.bug import Bug
from bench.planted.clock import CLOCK
from bench.planted.locks import LOCKS
from bench.planted.messages import MESSAGES
from bench.planted.modules import MODULES
from bench.planted.money import MONEY
from bench.planted.reading import READING
from bench.planted.sagas import SAGAS
from bench.planted.writing import WRITING

__all__ = ["BUGS", "Bug"]

BUGS: tuple[Bug, ...] = (*WRITING, *MESSAGES, *MODULES, *MONEY, *READING, *CLOCK, *SAGAS, *LOCKS)
