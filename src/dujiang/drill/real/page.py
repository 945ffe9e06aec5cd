"""Page: the report of a real drill as `real.json` and `real.html`; one file, no script, nothing from elsewhere.

Four strips share one axis of time: tries that were answered, the time to a final answer, and below them the faults, each
from its strike to its healing, full where it hit something and hollow where it did not.
"""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from dujiang.drill.page import POLICY, STYLE, section, table
from dujiang.drill.real.report import WINDOW_S, lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dujiang.drill.real.report import RealReport

WIDTH, LEFT, STRIP, ROW = 1100, 130, 70, 18
STYLE_MORE = """
.bar{fill:var(--work)}.phase{fill:var(--line);fill-opacity:.35}.hit{fill:var(--bad)}.miss{fill:none;stroke:var(--bad)}
"""


def write_real_page(report: RealReport, folder: Path) -> Path:
    """Write both files; the path of the page. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "real.json").write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    path = folder / "real.html"
    path.write_text(html(report), encoding="utf-8")
    return path


def html(report: RealReport) -> str:
    """The whole page."""
    verdict = "passed" if report.passed else "failed"
    count = len(report.violations)
    said = f"{count} violation{'' if count == 1 else 's'}"
    title = f"Real drill of {report.app}"
    failed = [
        f"<article><h3>✗ {escape(v.invariant)}</h3><pre>{escape(v.said)}</pre></article>" for v in report.violations
    ]
    kinds = [
        [kind, f"{row['count']:.0f}", f"{row['hit']:.0f}", f"{row['p50_s']:.1f} s", f"{row['p95_s']:.1f} s"]
        for kind, row in report.by_kind().items()
    ]
    phases = [
        [name, f"{row['calls']:,.0f}", *(f"{row[each]:.0f} ms" for each in ("p50", "p99", "max"))]
        for name, row in report.latency_ms.items()
    ]
    parts = [
        f'<h1>{escape(title)}: <span class="{verdict}">{said}</span></h1>',
        f"<pre>{escape(chr(10).join(lines(report)))}</pre>",
        *section("Violations", failed),
        *section("What happened when", [f'<div class="picture">{picture(report)}</div>']),
        *section("Faults", [table(["kind", "count", "hit", "working again", "P95"], kinds)]),
        *section("Time to a final answer", [table(["phase", "calls", "P50", "P99", "longest"], phases)]),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{STYLE_MORE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def picture(report: RealReport) -> str:
    """The strips, as SVG."""
    until_s = max((phase.until_s for phase in report.phases), default=1.0)
    kinds = sorted({fault["kind"] for fault in report.faults})
    height = STRIP + 30 + ROW * len(kinds) + 20

    def x(at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * min(at_s, until_s) / until_s

    parts = [
        *(band(x(phase.from_s), x(phase.until_s), height, phase.name) for phase in report.phases),
        text(5, STRIP, "answered tries"),
        *bars(report, x),
        *(text(5, STRIP + 40 + ROW * place, kind) for place, kind in enumerate(kinds)),
        *(mark(fault, x, STRIP + 30 + ROW * kinds.index(fault["kind"])) for fault in report.faults),
        *ticks(until_s, x, height),
    ]
    label = "answered tries in windows of ten seconds, and below them the faults"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        + "".join(parts)
        + "</svg>"
    )


def bars(report: RealReport, x: Any) -> Iterator[str]:
    """Availability by window."""
    for window, share in enumerate(report.availability):
        from_x, until_x = x(window * WINDOW_S), x((window + 1) * WINDOW_S)
        high = (STRIP - 15) * share
        told = f"<title>{window * WINDOW_S:.0f} s: {share:.1%} of tries answered</title>"
        shape = (
            f'x="{from_x:.1f}" y="{STRIP - high:.1f}" width="{max(until_x - from_x - 1, 1):.1f}" height="{high:.1f}"'
        )
        yield f'<rect class="bar" {shape}>{told}</rect>'


def band(from_x: float, until_x: float, height: int, name: str) -> str:
    """The ground of a phase; calm and healed are shaded."""
    shade = "" if name == "faults" else f'<rect class="phase" x="{from_x:.1f}" y="0" height="{height}" '
    shade += f'width="{until_x - from_x:.1f}"></rect>' if shade else ""
    return shade + text(from_x + 4, 11, name)


def mark(fault: Any, x: Any, y: int) -> str:
    """One fault, from its strike to its healing."""
    from_x = x(fault["at_s"])
    wide = max(x(fault["at_s"] + max(fault["healed_s"], 0.0)) - from_x, 2.5)
    again = (
        "not seen to work again" if fault["recovered_s"] < 0 else f"working again after {fault['recovered_s']:.2f} s"
    )
    told = f"{fault['kind']} {fault['target']} at {fault['at_s']:.1f} s, held {fault['held']}; {again}"
    kind = "hit" if fault["held"] else "miss"
    shape = f'x="{from_x:.1f}" y="{y}" width="{wide:.1f}" height="{ROW - 6}"'
    return f'<rect class="{kind}" {shape}><title>{escape(told)}</title></rect>'


def ticks(until_s: float, x: Any, height: int) -> Iterator[str]:
    """Moments along the axis."""
    step = next(each for each in (10, 30, 60, 300, 600, 3600) if until_s / each <= 15 or each == 3600)
    for at_s in range(0, int(until_s) + 1, step):
        yield text(x(at_s), height - 4, f"{at_s} s")


def text(x: float, y: float, said: str) -> str:
    """A word."""
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>'
