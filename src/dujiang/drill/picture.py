"""Picture: a timeline as SVG: lanes below each other, time from left to right, everything that people wrote escaped.

What matters happens within milliseconds, with minutes of silence between; so the axis gives each step to the next event a
width that grows with its logarithm, and says the time where it jumps. Bars and labels that would lie on each other are put
into rows of their own.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from math import log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.drill.timeline import Bar, Point, Timeline

LEFT, RIGHT, TOP = 84.0, 40.0, 26.0
ROW, LANE_MIN, LANE_GAP = 22.0, 26.0, 12.0
LETTER = 6.2
STEP_MIN, STEP_MAX, UNIT_S = 9.0, 120.0, 0.0005
LABEL_MAX = 44


class Scale:
    """Where a moment lies from left to right.

    Args:
        moments: All that are drawn, virtual seconds.
    """

    def __init__(self, moments: Sequence[float]) -> None:
        self.moments = sorted(set(moments)) or [0.0]
        self._x = {self.moments[0]: LEFT + 10}
        for before, after in pairwise(self.moments):
            step = STEP_MIN + 16 * log10(1 + (after - before) / UNIT_S)
            self._x[after] = self._x[before] + min(STEP_MAX, step)

    def __repr__(self) -> str:
        return f"<Scale of {len(self.moments)} moments, {self.width:.0f} wide>"

    @property
    def width(self) -> float:
        """To the right edge."""
        return self._x[self.moments[-1]] + RIGHT

    def x(self, at_s: float) -> float:
        """Of one of the moments."""
        return self._x[at_s]


class Rows:
    """Rows of a lane, filled so that nothing lies on something else."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def __repr__(self) -> str:
        return f"<Rows: {len(self._ends)}>"

    def __len__(self) -> int:
        return len(self._ends)

    def take(self, from_x: float, until_x: float) -> int:
        """The first row that is free there."""
        for row, end in enumerate(self._ends):
            if end <= from_x:
                self._ends[row] = until_x + 8
                return row
        self._ends.append(until_x + 8)
        return len(self._ends) - 1


def drawn(timeline: Timeline, title: str) -> str:
    """The picture as one `<svg>` element, without styles: the page around it has them.

    Args:
        timeline: What is drawn.
        title: For those who cannot see it.
    """
    moments = [bar.from_s for bar in timeline.bars] + [bar.until_s for bar in timeline.bars]
    scale = Scale([*moments, *(point.at_s for point in timeline.points)])
    parts: list[str] = []
    y, width = TOP, scale.width
    for lane in timeline.lanes:
        shapes, height, right = lane_of(
            [bar for bar in timeline.bars if bar.lane == lane],
            [point for point in timeline.points if point.lane == lane],
            [point for point in timeline.points if point.kind == "fault"],
            scale,
            y,
        )
        width = max(width, right + RIGHT)
        parts.append(f'<text class="lane" x="8" y="{y + 17:.1f}">{escape(lane)}</text>')
        parts.extend(shapes)
        y += height + LANE_GAP
        parts.append(f'<line class="edge" x1="0" x2="100%" y1="{y - LANE_GAP / 2:.1f}" y2="{y - LANE_GAP / 2:.1f}"/>')
    axis = axis_of(scale, y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{y:.0f}" '
        f'viewBox="0 0 {width:.0f} {y:.0f}"><title>{escape(title)}</title>{axis}{"".join(parts)}</svg>'
    )


def axis_of(scale: Scale, bottom: float) -> str:
    """Times above, where there is room for them."""
    parts, free = [], LEFT
    for at_s in scale.moments:
        x = scale.x(at_s)
        if x < free:
            continue
        text = f"{at_s:.3f} s"
        free = x + LETTER * len(text) + 14
        parts.append(f'<line class="time" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8:.0f}" y2="{bottom:.0f}"/>')
        parts.append(f'<text class="time" x="{x:.1f}" y="{TOP - 12:.0f}">{text}</text>')
    return "".join(parts)


def lane_of(
    bars: Sequence[Bar], points: Sequence[Point], faults: Sequence[Point], scale: Scale, y: float
) -> tuple[list[str], float, float]:
    """One lane: its shapes, its height, and how far right it reaches."""
    shapes, rows, right = [], Rows(), 0.0
    for point in points:
        if point.kind in {"fault", "clue"}:
            x, text = scale.x(point.at_s), shortened(point.name)
            end = x + 12 + LETTER * len(text)
            row, right = rows.take(x - 10, end), max(right, end)
            number = f"{faults.index(point) + 1}" if point.kind == "fault" else "?"
            shapes.append(marked(point, x, y + row * ROW + 11, number, text))
    for bar in bars:
        if bar.kind != "gone":
            x, text = scale.x(bar.from_s), shortened(bar.says)
            end = max(scale.x(bar.until_s), x + LETTER * len(text))
            row, right = rows.take(x, end), max(right, end)
            shapes.append(barred(bar, x, scale.x(bar.until_s), y + row * ROW, text))
    height = max(LANE_MIN, len(rows) * ROW)
    gone = [
        f'<rect class="gone" x="{scale.x(bar.from_s):.1f}" y="{y:.1f}" height="{height:.1f}" '
        f'width="{max(2.0, scale.x(bar.until_s) - scale.x(bar.from_s)):.1f}"><title>{escape(bar.says)}</title></rect>'
        for bar in bars
        if bar.kind == "gone"
    ]
    commits = [
        f'<line class="{point.kind}" x1="{scale.x(point.at_s):.1f}" x2="{scale.x(point.at_s):.1f}" y1="{y:.1f}" '
        f'y2="{y + height:.1f}"><title>{escape(f"{point.at_s:.4f} s {point.says}")}</title></line>'
        for point in points
        if point.kind in {"commit", "own"}
    ]
    return [*gone, *commits, *shapes], height, right


def barred(bar: Bar, x: float, end: float, y: float, text: str) -> str:
    """A bar with its label above."""
    title = f"{bar.from_s:.4f} s to {bar.until_s:.4f} s: {bar.says}" + (" (no answer)" if bar.cut else "")
    shape = (
        f'<g><title>{escape(title)}</title><text x="{x:.1f}" y="{y + 10:.1f}">{escape(text)}</text>'
        f'<rect class="{bar.kind}{" cut" if bar.cut else ""}" x="{x:.1f}" y="{y + 13:.1f}" '
        f'width="{max(3.0, end - x):.1f}" height="6" rx="2"/>'
    )
    if bar.cut:
        shape += f'<path class="cross" d="M{end - 4:.1f} {y + 12:.1f}l8 8m0 -8l-8 8"/>'
    return shape + "</g>"


def marked(point: Point, x: float, y: float, number: str, text: str) -> str:
    """A fault as a numbered disc, a clue as a diamond."""
    title = escape(f"{point.at_s:.4f} s {point.says}")
    if point.kind == "fault":
        shape = f'<circle class="fault" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
    else:
        shape = f'<path class="clue" d="M{x:.1f} {y - 10:.1f}l10 10l-10 10l-10 -10z"/>'
    return (
        f'<g><title>{title}</title>{shape}<text class="number" x="{x:.1f}" y="{y + 4:.1f}">{number}</text>'
        f'<text class="{point.kind}" x="{x + 13:.1f}" y="{y + 4:.1f}">{escape(text)}</text></g>'
    )


def shortened(text: str) -> str:
    """A label that does not fill the picture."""
    return text if len(text) <= LABEL_MAX else text[: LABEL_MAX - 1] + "…"
