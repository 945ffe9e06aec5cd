"""`dujiang new`: a project of one's own, small (the starter) or a copy of a shipped system, under a new name."""

import difflib
import importlib.machinery
import keyword
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dujiang.cli.command import JsonFlag
from dujiang.cli.exits import DATA, INTERNAL, USAGE, exit_code_of
from dujiang.cli.output import say, say_json
from dujiang.kernel.errors import DujiangError

NAME = re.compile(r"[a-z][a-z0-9_]*")
# A table of versions is called `dj_version_<name>`, and PostgreSQL cuts names at 63 bytes.
NAME_LENGTH_MOST = 40


@dataclass(eq=False, kw_only=True)
class ProjectNameRefused(DujiangError):
    """The name of a new project is none that its package can have."""

    code = "project_name"
    move = "fix"
    exit_code = USAGE
    says = "{name!r} cannot be the name of a project: {why}"
    cure = "choose another, such as {example}"

    name: str
    why: str
    example: str


@dataclass(eq=False, kw_only=True)
class SystemUnknown(DujiangError):
    """No system of this name is shipped."""

    code = "system_unknown"
    move = "fix"
    exit_code = USAGE
    says = "there is no system {name!r}"
    cure = "{near}there are: {known}"

    name: str
    near: str
    known: str


@dataclass(eq=False, kw_only=True)
class ProjectFolderTaken(DujiangError):
    """The folder of a new project is not free."""

    code = "project_folder"
    move = "choose"
    exit_code = DATA
    says = "{folder} {why}"
    cure = "{how}"

    folder: str
    why: str
    how: str


@dataclass(eq=False, kw_only=True)
class ProjectNotWritten(DujiangError):
    """A new project could not be written, and nothing of it is left."""

    code = "project_not_written"
    move = "fix"
    says = "{folder} could not be written: {why}"
    cure = "give this user the rights, make room, or choose another folder with --into; nothing of the project is left"

    folder: str
    why: str
    # Rights are 78, a full disk is 69: as the machine said.
    exit_code: int = INTERNAL


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the project and of its package.")],
    *,
    system: Annotated[
        str | None, typer.Option("--from", metavar="SYSTEM", help="Copy this shipped system; else a small one.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="FOLDER", help="Folder of the project; default ./NAME.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Make a project of your own: a package, its tests, and what it needs to run."""
    from dujiang.cli.project import STARTER, project_of, shipped, write  # noqa: PLC0415  (`--help` does not pay for it)

    known = shipped()
    source = STARTER if system is None else system
    if source not in known:
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SystemUnknown(name=source, near=hint, known=", ".join(known))
    judge_name(name, source)
    target = Path.cwd() / (name if into is None else into.expanduser())
    project = project_of(name, source, flag="" if system is None else f" --from {system}")
    try:
        judge_folder(target)
        write(project, target)
    except OSError as cause:
        refused = ProjectNotWritten(folder=str(target), why=cause.strerror or str(cause))
        refused.exit_code = exit_code_of(cause)
        raise refused from cause
    if as_json:
        say_json({"name": name, "from": source, "folder": str(target), "files": sorted(project)})
        return 0
    say(f"made {name} in {target}, {len(project)} files, from {source}")
    say(f"next: go there, then  dujiang up {name}:app  |  pytest  |  dujiang drill {name}:app")
    return 0


def judge_name(name: str, source: str) -> None:
    """Raise ProjectNameRefused if the package cannot be called so."""
    example = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_") or "bakery"
    why = ""
    if not NAME.fullmatch(name):
        why = "a package is called by lower-case letters, digits and _, beginning with a letter"
    elif keyword.iskeyword(name):
        why = "it is a keyword of Python"
    elif len(name) > NAME_LENGTH_MOST:
        why, example = f"it has more than {NAME_LENGTH_MOST} characters, and tables are named after it", "bakery"
    elif name in sys.stdlib_module_names:
        why = "Python has a module of this name"
    elif name in ("dj", "tests") or name.startswith("dj_"):
        why = "tables of the platform begin with dj_, and the tests lie in tests/"
    elif place := installed(name):
        why = f"a package of this name is installed at {place}"
    elif name != source and name in taken_in(source):
        why = f"{source} calls something else so"
    if why:
        free = f"my_{example}" if example == name or not NAME.fullmatch(example) else example
        raise ProjectNameRefused(name=name, why=why, example=free)


def installed(name: str) -> str:
    """Where a package of this name is installed; empty if none is. The current folder does not count."""
    here = str(Path.cwd())
    path = [each for each in sys.path if each not in ("", ".", here)]
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    return "" if spec is None or spec.origin is None else spec.origin


def taken_in(source: str) -> set[str]:
    """Every identifier that a shipped system uses."""
    from dujiang.cli.project import shipped, sources  # noqa: PLC0415
    from dujiang.cli.renaming import names_in  # noqa: PLC0415

    texts = [(path, text) for path, text in sources(shipped()[source]) if path.endswith(".py")]
    return {name for path, text in texts for name in (*names_in(text), Path(path).stem)}


def judge_folder(target: Path) -> None:
    """Raise ProjectFolderTaken unless the folder is missing below one that exists, or empty; OSError if it cannot be seen."""
    elsewhere = "choose another folder with --into"
    if target.is_dir():
        first = min((entry.name for entry in target.iterdir()), default=None)
        if first is not None:
            raise ProjectFolderTaken(folder=str(target), why=f"is not empty: it holds {first!r}", how=elsewhere)
    elif target.exists() or target.is_symlink():
        raise ProjectFolderTaken(folder=str(target), why="is no folder", how=elsewhere)
    elif not target.parent.is_dir():
        why = f"would lie in {target.parent}, which is no folder"
        raise ProjectFolderTaken(folder=str(target), why=why, how=f"make that folder first, or {elsewhere}")
