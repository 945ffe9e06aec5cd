"""Tape: every decision of a run that is not the program's, by label and number.

    draw("cut.db.reply")      a fault: 0 = nothing bad. What was not 0 is a deviation: it can be kept, or taken back.
    pick("client.path", 7)    a choice of the workload: 0 = the simplest.
    delay("db.request")       how long something takes.

Each label has a stream of its own, so taking back one fault leaves the numbers of all others where they were; that is what
lets a failing schedule shrink. Delays and choices are no faults: they come from the seed alone, and are made flat, or
simple, for all of a run at once.

A run is (seed, plan, options). A replay is the same with the kept deviations instead of chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Deviation = tuple[str, int]

BASE_S = 0.0005
# How often something takes long, and at most how long, seconds. A crowd waits for connections, longer than its patience lasts
# (network.py); slow statements would hold rows meanwhile, and the others would only stand in line.
SLOW, SLOW_TO_CONNECT = (0.01, 2.0), (0.1, 6.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often which faults happen.

    Attributes:
        rates: Probability of a draw, by label or by its first words; the longest match counts. Nothing else happens.
        jitter: Whether delays vary; without it everything takes the same short time.
        crowd: Whether clients come in waves and all want the newest thing.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    jitter: bool = True
    crowd: bool = False

    def rate(self, label: str) -> float:
        """The probability of a label."""
        words = label.split(".")
        for count in range(len(words), 0, -1):
            found = self.rates.get(".".join(words[:count]))
            if found is not None:
                return found
        return 0.0


class Tape:
    """The decisions of one run.

    Args:
        seed: Any text.
        plan: Rates of faults.
        keep: For a replay: the deviations that happen; all other draws are 0.
    """

    def __init__(self, seed: str, plan: Plan, keep: Mapping[Deviation, int] | None = None) -> None:
        self.seed = seed
        self.plan = plan
        self.keep = keep
        self.on = False
        self.at_draw: Callable[[str, int], int] | None = None  # Decides in the place of chance; for the sweep.
        self.deviations: dict[Deviation, int] = {}
        self.drawn: dict[str, int] = {}
        self._streams: dict[str, tuple[SeededEntropy, float]] = {}
        self._delays: dict[str, SeededEntropy] = {}
        self._picks: dict[str, SeededEntropy] = {}

    def draw(self, label: str, high: int = 1) -> int:
        """Whether a fault happens, and in which of `high` forms; 0 while faults are off."""
        if not self.on:
            return 0
        number = self.drawn.get(label, -1) + 1
        self.drawn[label] = number
        if self.at_draw is not None:
            value = self.at_draw(label, high)
        elif self.keep is not None:
            value = min(high, self.keep.get((label, number), 0))
        else:
            stream = self._streams.get(label)
            if stream is None:
                stream = self._streams[label] = (SeededEntropy(f"{self.seed}/{label}"), self.plan.rate(label))
            chance, rate = stream
            value = (1 + chance.below(high)) if rate and chance.random() < rate else 0
        if value:
            self.deviations[label, number] = value
        return value

    def insist(self, label: str) -> int:
        """Make the last draw of a label a fault, of its first form."""
        self.deviations[label, self.drawn[label]] = 1
        return 1

    def pick(self, label: str, high: int) -> int:
        """A choice of the workload, 0 to `high`."""
        chance = self._picks.get(label)
        if chance is None:
            chance = self._picks[label] = SeededEntropy(f"{self.seed}/pick/{label}")
        return chance.below(high + 1)

    def same(self, label: str, high: int) -> int:
        """A choice that is the same whenever it is asked for."""
        return SeededEntropy(f"{self.seed}/same/{label}").below(high + 1)

    def delay(self, what: str) -> float:
        """Seconds that something takes."""
        if not self.plan.jitter or not self.on:
            return BASE_S
        chance = self._delays.get(what)
        if chance is None:
            chance = self._delays[what] = SeededEntropy(f"{self.seed}/delay/{what}")
        seen = chance.random()
        if seen < 0.7:
            return BASE_S
        often, longest_s = SLOW_TO_CONNECT if self.plan.crowd and what == "db.connect" else SLOW
        return BASE_S * (1 + 60 * chance.random()) if seen < 1 - often else 0.1 + longest_s * chance.random()
