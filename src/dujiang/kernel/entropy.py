"""Entropy: chance for jitter and identities, from one place that a simulation can seed."""

from __future__ import annotations

import os
import random
import secrets
from typing import Protocol


class Entropy(Protocol):
    """Chance as one node sees it."""

    def random(self) -> float:
        """A float in [0, 1); for jitter, not for secrets."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high]."""
        ...

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        ...

    def bits(self, count: int) -> int:
        """An integer of this many random bits."""
        ...

    def secret(self, size: int) -> bytes:
        """Bytes that nobody can guess."""
        ...


# Tells this process from one before it: in a container every process has the same number.
PROCESS_MARK = secrets.token_hex(8)


class SystemEntropy:
    """A generator seeded by the operating system; secrets come from the operating system itself."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # Jitter and ids only; `secret` never uses it.
        self.random = self._random.random
        self.uniform = self._random.uniform
        self.below = self._random.randrange
        self.bits = self._random.getrandbits

    def secret(self, size: int) -> bytes:
        """Bytes from the operating system's generator."""
        return secrets.token_bytes(size)


class SeededEntropy:
    """A generator whose every answer follows from its seed, secrets too; for simulations and tests only.

    Args:
        seed: Any text; equal seeds give equal answers in every process.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self.random = self._random.random
        self.uniform = self._random.uniform
        self.below = self._random.randrange
        self.bits = self._random.getrandbits

    def secret(self, size: int) -> bytes:
        """Bytes that anyone with the seed can guess."""
        return self._random.randbytes(size)
