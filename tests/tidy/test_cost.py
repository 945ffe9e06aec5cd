"""Importing Dujiang is cheap: a declaration loads neither a web framework nor SQL."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "fastapi",
    "starlette",
    "sqlalchemy",
    "alembic",
    "uvicorn",
    "apsw",
    "asyncpg",
    "opentelemetry.sdk",
    "typer",
    "rich",
)

SCRIPT = """
import json, sys
{statement}
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""


def loaded_by(statement: str) -> list[str]:
    """What a fresh Python has loaded after the statement, of the things that cost much."""
    script = SCRIPT.format(statement=statement, heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"`{statement}` fails:\n{run.stderr}"
    answer: list[str] = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize("statement", ["import dujiang", "from dujiang import App, Module, Event, Tx"])
def test_a_declaration_loads_nothing_heavy(statement: str) -> None:
    """What a module of a user needs costs neither a web framework nor a database."""
    assert loaded_by(statement) == []


def test_the_probe_sees_what_is_loaded() -> None:
    """The probe itself is right: it reports what a statement loads."""
    assert loaded_by("import sqlalchemy") == ["sqlalchemy"]
