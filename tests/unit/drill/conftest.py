"""A simulated database server of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.drill.serving import Server, image_in


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with three pots of ten; a hop takes 0.5 ms."""
    made = Server(image_in(tmp_path), tmp_path, tracing=True)
    yield made
    made.close()
