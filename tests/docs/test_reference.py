"""The generated pages say what the code says, and the links of all pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import generate
from tests.docs.markdown import ROOT

LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
# Lists that wrap their lines.
OWN_WAY = ("CONTRIBUTING.md", "pending.md")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def pages() -> list[Path]:
    """Every page that people read."""
    return [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors that a page has: its headings, in the form that GitHub gives them."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(page.read_text(encoding="utf-8")))
    return {heading.replace(" ", "-") for heading in kept}


class TestReference:
    @pytest.mark.parametrize("name", sorted(generate.PAGES))
    def test_a_generated_page_is_what_the_code_says(self, name: str) -> None:
        """A page that lags behind the code fails; `python -m tests.docs.generate --write` brings it up to date."""
        told = (generate.DOCS / name).read_text(encoding="utf-8")

        assert told == generate.made(name), "run python -m tests.docs.generate --write"

    def test_every_problem_type_leads_to_a_section(self) -> None:
        """The anchor in a problem document's `type` is a heading of docs/errors.md, once for each code."""
        codes = [kind.code for kind in generate.error_classes()]

        assert len(codes) == len(set(codes))
        assert set(codes) <= anchors(generate.DOCS / "errors.md")


class TestPages:
    @pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
    def test_every_link_leads_somewhere(self, page: Path) -> None:
        """A link to a file finds it, and a link to a section finds its heading."""
        broken = []
        for target, anchor in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            there = (page.parent / target).resolve() if target else page
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                broken.append(f"{target}#{anchor}")

        assert broken == []

    @pytest.mark.parametrize("page", [p for p in pages() if p.name not in OWN_WAY], ids=lambda page: page.name)
    def test_a_line_holds_one_sentence(self, page: Path) -> None:
        """One sentence a line, so that a change of one sentence is a change of one line; lists and tables may hold more."""
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        lines = [line for line in text.splitlines() if not re.match(r"\s*([-*|>#<]|\d+\.)", line)]

        assert [line for line in lines if generate.SENTENCE.search(line)] == []
