"""Every row of the table of adapters leads to a class, and a wrong URL to a cure."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dujiang.backends import table
from dujiang.backends.table import ADAPTERS, Adapter, UnknownAdapter
from tests.tidy.source import ROOT


@pytest.mark.parametrize("row", ADAPTERS, ids=lambda row: f"{row.port}-{row.scheme}")
def test_every_row_resolves(row: Adapter) -> None:
    """The dotted name of a row is a class."""
    assert isinstance(table.load(row.port, row.scheme), type)


@pytest.mark.parametrize("row", ADAPTERS, ids=lambda row: f"{row.port}-{row.scheme}")
def test_every_adapter_lies_in_the_file_of_its_port(row: Adapter) -> None:
    """Listing backends/*/<port>.py prints the compatibility matrix."""
    module = row.path.partition(":")[0]

    assert module.startswith("dujiang.backends.")
    assert module.rpartition(".")[2] == row.port


def test_no_scheme_of_a_port_stands_twice() -> None:
    """A URL means one adapter."""
    keys = [(row.port, row.scheme) for row in ADAPTERS]

    assert len(keys) == len(set(keys))


def test_every_extra_exists_and_every_adapter_file_has_a_row() -> None:
    """The pip line of an error works, and no adapter is out of reach."""
    declared = (ROOT / "pyproject.toml").read_text()
    ports = {row.port for row in ADAPTERS}
    files = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in [*ROOT.glob("src/dujiang/backends/*/*.py"), *ROOT.glob("src/dujiang/backends/*/simulated/*.py")]
    }
    adapters = {module for module in files if module.rpartition(".")[2] in ports}

    assert all(f"{row.extra} = [" in declared for row in ADAPTERS if row.extra)
    assert adapters == {row.path.partition(":")[0] for row in ADAPTERS}


@pytest.mark.parametrize("url", ["postgres://app:secret@db/shop", "postgresq"])
def test_an_unknown_scheme_names_the_nearest_one_and_no_secret(url: str) -> None:
    """The error of a mistyped scheme says what was probably meant, and nothing of the rest of the URL."""
    with pytest.raises(UnknownAdapter) as caught:
        table.load("database", url)

    assert caught.value.code == "unknown_adapter"
    assert caught.value.hint == "did you mean postgresql?"
    assert "secret" not in str(caught.value)


def test_a_missing_driver_names_what_installs_it() -> None:
    """Without its driver an adapter is refused with the line for pip.

    Method: a fresh process, for a module that is taken out of this one and imported again would be there twice;
    `None` in sys.modules makes Python's import say that the module is not there.
    """
    script = """if True:
        import sys
        sys.modules["asyncpg"] = None
        from dujiang.backends import table
        try:
            table.load("database", "postgresql://db/shop")
        except table.MissingExtra as refused:
            print(refused.code, refused.hint, sep="\\n")
    """
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert said == ["missing_extra", "pip install 'dujiang[postgres]'"]
