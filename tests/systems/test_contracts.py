"""The shipped systems' contracts are written down: a change of one is a diff that somebody has looked at."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from dujiang.cli.contracts import FILE
from dujiang.cli.project import STARTER, project_of, shipped
from dujiang.contracts.snapshot import joined, read, snapshot_of, text_of

SYSTEMS = sorted({*shipped(), STARTER})


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_file_is_what_the_code_promises(system: str) -> None:
    """A file that lags behind the code fails; `dujiang contracts dujiang.systems.<name>:app --write` brings it up to date."""
    module = importlib.import_module(f"dujiang.systems.{system}")
    path = Path(str(module.__file__)).parent / FILE

    assert path.read_text(encoding="utf-8") == text_of(joined(read(path), snapshot_of(module.app)))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_copy_has_contracts_of_its_own_name(system: str) -> None:
    """The stored names in the copied file are those of the copied code."""
    project = project_of("bakery", system, flag="")
    found = json.loads(project[f"bakery/{FILE}"])

    names = [*found["reactions"], *found["writes"], *(entry["operation"] for entry in found["routes"].values())]
    assert names
    # A system with jobs also has the platform's own routes for them.
    assert {name.partition(".")[0] for name in names} - {"dujiang"} == {"bakery"}
