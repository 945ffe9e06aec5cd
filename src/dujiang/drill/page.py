"""Page: the report of a drill as files: `report.json`, and `report.html`, which needs nothing but itself.

No script, no picture, no font from elsewhere: the page can be kept as a build's artefact, mailed, and opened on a machine
without a network; its policy forbids the browser to fetch anything. All text is escaped: it holds rows, statements and
error messages of the application.
"""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from dujiang.drill.picture import drawn
from dujiang.drill.summary import outcome_of, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from dujiang.drill.drilling import Report
    from dujiang.drill.story import Story

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6573;--paper:#fff;--card:#f5f6f8;--line:#d9dde3;
--call:#7a8ba3;--work:#2f6fb5;--commit:#1f8a4c;--bad:#c2352b;--clue:#b26a00}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b4;--paper:#14181f;--card:#1d232c;--line:#343c48;
--call:#8d9db4;--work:#6aa7e8;--commit:#4cc07f;--bad:#ff7b6e;--clue:#f0b04c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1200px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem;margin:0 0 .5rem}
code,pre,svg{font-family:ui-monospace,monospace;font-size:13px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem 1.2rem .2rem 0;vertical-align:top}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}th{color:var(--soft);font-weight:500}
.passed{color:var(--commit)}.failed{color:var(--bad)}.soft{color:var(--soft)}
article{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--bad);border-radius:6px;
padding:1rem 1.2rem;margin:1rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;margin:.6rem 0}dt{color:var(--soft)}dd{margin:0;
overflow-wrap:anywhere}
.picture{overflow-x:auto;background:var(--paper);border:1px solid var(--line);border-radius:6px;margin:.8rem 0 .4rem}
svg{display:block}svg text{fill:var(--ink);font-size:10.5px}svg .lane{font-size:12px;font-weight:600}
svg text.time{fill:var(--soft)}line.time{stroke:var(--line);stroke-dasharray:2 4}.edge{stroke:var(--line)}
rect.call{fill:var(--call)}rect.work{fill:var(--work)}rect.cut{fill-opacity:.45}rect.gone{fill:var(--bad);fill-opacity:.16}
line.commit{stroke:var(--commit);stroke-width:2}line.own{stroke:var(--soft);stroke-opacity:.4}
.cross{stroke:var(--bad);stroke-width:2;fill:none}circle.fault{fill:var(--bad)}path.clue{fill:var(--clue)}
svg text.number{fill:var(--paper);text-anchor:middle;font-weight:700}svg text.fault{fill:var(--bad)}
svg text.clue{fill:var(--clue)}
"""
LEGEND = (
    "Bars: a client waits (grey), a machine handles a request (blue); a cross: no answer, or the machine died. "
    "Ticks: a handler's commit (green), one of the platform's own (faint). Red shade: dead, or standing still. "
    "Numbers: the faults, in the order of the schedule. Diamonds: what the history shows of the cause. "
    "The axis leaves silence out; point at something to read more."
)


def write_page(report: Report, folder: Path) -> Path:
    """Write `report.json` and `report.html`; the path of the second. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = json.dumps(report.to_json(), indent=2, default=str)
    (folder / "report.json").write_text(found + "\n", encoding="utf-8")
    path = folder / "report.html"
    path.write_text(html(report), encoding="utf-8")
    return path


def html(report: Report) -> str:
    """The whole page."""
    verdict = "passed" if report.passed else "failed"
    parts = [
        f'<h1>Drill of <code>{escape(report.app)}</code>: <span class="{verdict}">{escape(outcome_of(report))}</span></h1>',
        f"<pre>{escape(chr(10).join(summary(report)))}</pre>",
        *section("Violations", (violation(s, r) for s, r in zip(report.stories, report.replays, strict=True))),
        *section("Answers", [answers(report.flows)] if report.flows else []),
        *section("Faults", [coverage(report)]),
        *section("Await sites", [sites(report.sites)] if report.sites else []),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Drill of {escape(report.app)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def section(title: str, parts: Iterable[str]) -> list[str]:
    """A heading and what stands below it; nothing when there is nothing."""
    found = list(parts)
    return [f"<h2>{escape(title)}</h2>", *found] if found else []


def violation(story: Story, replay: str) -> str:
    """One failure: what, the schedule as a picture and in words, why, the cure, how to replay it."""
    parts = [f"<h3>✗ {escape(story.invariant)}</h3>", f"<pre>{escape(story.said)}</pre>"]
    if story.timeline is not None:
        left = f" {story.timeline.left_out} earlier marks are left out." if story.timeline.left_out else ""
        picture = drawn(story.timeline, f"what happened before {story.invariant} failed")
        parts.append(f'<div class="picture">{picture}</div><p class="soft">{LEGEND}{left}</p>')
    if story.schedule:
        rows = "".join(f"<li>{escape(line)}</li>" for line in story.schedule)
        parts.append(f"<ol>{rows}</ol>")
        kept = f"{story.kept} of {story.before} faults, found in {story.runs} runs, {story.took_s:.1f} s"
    else:
        kept = "no fault is needed: the order of ordinary events is enough"
    pairs = [("smallest schedule", kept), *(("note", note) for note in story.notes)]
    if story.cause is not None:
        pairs += [("why", story.cause.why), ("cure", story.cause.cure)]
    pairs += [("replay", f"dujiang replay '{replay}'" if " " in replay else f"dujiang replay {replay}")]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<article>{''.join(parts)}<dl>{rows}</dl></article>"


def answers(flows: Mapping[str, Mapping[str, int]]) -> str:
    """How often each flow answered what."""
    statuses = sorted({status for counts in flows.values() for status in counts})
    rows = [[name, *(counts.get(status, 0) or "" for status in statuses)] for name, counts in flows.items()]
    return table(["flow", *statuses], rows)


def coverage(report: Report) -> str:
    """What was done to the application."""
    killed = sum(1 for count in report.sites.values() if count)
    rows: list[list[Any]] = [
        ["crash points killed", f"{report.crash_points_killed} of {report.crash_points}"],
        ["await sites killed", f"{killed} of {len(report.sites)}"],
        ["other faults, each by itself", report.single_faults],
        ["random schedules", report.seeds],
        ["machines killed", f"{report.kills}, {report.kills_in_flight} with something in hand"],
        *([f"faults: {family}", count] for family, count in report.faults.items()),
        *([f"sometimes: {name}", count] for name, count in report.sometimes.items()),
    ]
    return table(["", "count"], rows)


def sites(counts: Mapping[str, int]) -> str:
    """How often each await site was killed."""
    return (
        "<details><summary>how often each was killed</summary>"
        + table(["site", "killed"], counts.items())
        + "</details>"
    )


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table; all cells but the first of a row are numbers."""

    def row(cells: Iterable[Any], tag: str) -> str:
        made = (
            f"<{tag}{' class=number' if place else ''}>{escape(str(cell))}</{tag}>" for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    return f"<table>{row(heads, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
