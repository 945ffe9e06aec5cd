"""Which cases of a suite run at each change, and which as proof."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A class with `quick` keeps the cases with these numbers for every run; the others are proof.

    A real server takes a second for each case. So `make test` asks it what only it can answer wrongly, and leaves what is
    the same code on every broker to `make proof`.
    """
    for item in items:
        quick = getattr(getattr(item, "cls", None), "quick", None)
        number, _ = getattr(getattr(item, "function", None), "case", ("", ""))
        if quick is not None and number and number not in quick:
            item.add_marker(pytest.mark.proof)
