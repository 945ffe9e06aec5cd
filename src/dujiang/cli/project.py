"""Project: a shipped system as files of one's own, complete or not at all.

    src: dujiang/systems/shop            made: bakery/
         __init__.py orders.py ...             pyproject.toml README.md Makefile
         migrations/                           bakery/  __init__.py orders.py ... migrations/
         tests/                                tests/   conftest.py test_bakery.py test_drill.py

Everything is written into a temporary folder beside the target and moved in one step at the end, so a full disk or a kill
half-way leaves no half project. A target that exists already (and is empty) may be somebody's current folder, which a rename
would take away under his feet: there the temporary folder lies inside, and its entries are moved one by one.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.cli.renaming import SYSTEMS, Renaming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

STARTER = "starter"

PYPROJECT = """[project]
name = "{name}"
version = "0.1.0"
description = "{title}, on Dujiang."
requires-python = ">=3.11"
dependencies = ["dujiang[postgres]>={version}"]

[dependency-groups]
dev = ["dujiang[drill]", "pytest>=9", "pytest-asyncio>=1.2"]

[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["{name}"]

[tool.pytest.ini_options]
testpaths = ["tests"]
addopts = ["--import-mode=importlib"]
pythonpath = ["."]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""

MAKEFILE = """# up: serve on http://127.0.0.1:8000    test: the tests    drill: search for what breaks under faults
.PHONY: up test drill
PYTHON ?= python

up:
	@$(PYTHON) -m dujiang.cli up {name}:app

test:
	@$(PYTHON) -m pytest

drill:
	@$(PYTHON) -m dujiang.cli drill {name}:app
"""

README = """# {title}

Made by `dujiang new {name}{flag}`; all of it is yours to change.

```text
python3 -m venv .venv && . .venv/bin/activate
pip install 'dujiang[drill,postgres]' pytest pytest-asyncio
dujiang up {name}:app          # http://127.0.0.1:8000/docs
pytest                         # on the embedded store, and on PostgreSQL where its programs are installed
dujiang drill {name}:app       # kills, delays and cuts off simulated machines, and tells what broke
```

`DUJIANG_DATABASE=postgresql://user:password@host/database dujiang up {name}:app` runs the same on PostgreSQL, after
`dujiang migrate {name}:app`.

| file | holds |
|---|---|
{table}
"""


def shipped() -> dict[str, Traversable]:
    """The systems that can be copied: those that come with tests of their own."""
    folders = (entry for entry in files(SYSTEMS).iterdir() if entry.is_dir())
    return {each.name: each for each in sorted(folders, key=lambda f: f.name) if each.joinpath("tests").is_dir()}


def sources(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of every file of a system, in order; what Python compiled is none."""
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir() and entry.name != "__pycache__":
            yield from sources(entry, f"{above}{entry.name}/")
        elif entry.is_file() and not entry.name.endswith(".pyc"):
            yield f"{above}{entry.name}", entry.read_text(encoding="utf-8")


def project_of(name: str, system: str, *, flag: str) -> dict[str, str]:
    """Path and text of every file of the project; the system's package, its tests, and what is around them.

    Args:
        name: The new package.
        system: The shipped one.
        flag: How the command named the system, for the README: ` --from shop`.
    """
    renaming = Renaming(system, name)
    made = {}
    for path, text in sources(shipped()[system]):
        place = renaming.path(path)
        where = place if place.startswith("tests/") else f"{name}/{place}"
        rename = {".py": renaming.source, ".json": renaming.data}.get(Path(path).suffix, renaming.dotted)
        made[where] = rename(text)
    title = name.replace("_", " ").capitalize()
    rows = [f"| `{path}` | {first_line(text)} |" for path, text in made.items() if not path.endswith("__init__.py")]
    made["pyproject.toml"] = PYPROJECT.format(name=name, title=title, version=version("dujiang"))
    made["Makefile"] = MAKEFILE.format(name=name)
    made["README.md"] = README.format(name=name, title=title, flag=flag, table="\n".join(rows))
    made[".gitignore"] = "__pycache__/\n.venv/\n.drill/\n.pytest_cache/\nvar/\n"
    return made


def first_line(text: str) -> str:
    """The first line of a docstring; the one file that has none holds the contracts."""
    if not text.startswith('"""'):
        return "What the package promises to others; `dujiang contracts` compares"
    return text.partition('"""')[2].partition("\n")[0].removesuffix('"""').strip()


def write(project: Mapping[str, str], target: Path) -> None:
    """Write all files below `target`, which is missing or empty, or none. Raises OSError, with nothing left behind."""
    there = target.exists()
    stage = Path(tempfile.mkdtemp(prefix=".dujiang-new-", dir=target if there else target.parent))
    moved: list[Path] = []
    try:
        # Inside the folder that only its owner may enter, so that the project gets the rights of any new folder.
        whole = stage / "project"
        for path, text in project.items():
            (whole / path).parent.mkdir(parents=True, exist_ok=True)
            (whole / path).write_text(text, encoding="utf-8")
        if there:
            # One by one: what has been moved must be known when a later one fails.
            moved.extend(entry.rename(target / entry.name) for entry in sorted(whole.iterdir()))
        else:
            whole.rename(target)
    except BaseException:
        for entry in moved:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)
