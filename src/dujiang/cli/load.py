"""Load: `module:attribute` to an App, with the mistakes that people make told apart.

A module that does not exist, a module that fails while it is imported, an attribute that is not there, and something
that is not an App are four different mistakes; only the second has a line of the user's own code to show.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.cli.exits import USAGE
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from dujiang.app import App


@dataclass(eq=False, kw_only=True)
class AppNameRefused(DujiangError):
    """The name of an application is not of the form module:attribute."""

    code = "app_name"
    move = "fix"
    exit_code = USAGE
    says = "{name!r} is no name of an application"
    cure = "write module:attribute, as in {example}"

    name: str
    example: str


@dataclass(eq=False, kw_only=True)
class AppModuleMissing(DujiangError):
    """The module of the application does not exist."""

    code = "app_module_missing"
    move = "fix"
    says = "there is no module {module!r} in {folder} nor among the installed packages"
    cure = "{near}run the command in the folder that holds the module"

    module: str
    folder: str
    near: str


@dataclass(eq=False, kw_only=True)
class AppModuleFailed(DujiangError):
    """The module of the application cannot be imported."""

    code = "app_module_failed"
    move = "fix"
    says = "importing {module!r} failed at {where}: {why}"
    cure = "correct that line; --debug shows the whole traceback"

    module: str
    where: str
    why: str


@dataclass(eq=False, kw_only=True)
class AppMissing(DujiangError):
    """The module of the application has no such attribute."""

    code = "app_missing"
    move = "fix"
    says = "{module!r} has no {attribute!r}"
    cure = "{near}"

    module: str
    attribute: str
    near: str


@dataclass(eq=False, kw_only=True)
class NotAnApp(DujiangError):
    """What the name of the application leads to is something else."""

    code = "not_an_app"
    move = "fix"
    says = "{name!r} is a {kind}, not a dujiang.App"
    cure = "{how}"

    name: str
    kind: str
    how: str


def load_app(name: str, *, folder: Path) -> App:
    """The application of this name; `folder` is searched first.

    Raises:
        AppNameRefused, AppModuleMissing, AppModuleFailed, AppMissing, NotAnApp: With the cure.
        DujiangError: What a declaration in the module raises, unchanged.
    """
    from dujiang.app import App  # noqa: PLC0415  (a command that fails earlier does not pay for it)

    found = load_object(name, folder=folder)
    if isinstance(found, App):
        return found
    how = "name the App itself, as in `app = App(modules=[...])`"
    if type(found).__module__.partition(".")[0] in ("fastapi", "starlette"):
        how = "make an App, `app.attach(fastapi_app)`, and serve the FastAPI app with any ASGI server"
    raise NotAnApp(name=name, kind=type(found).__name__, how=how)


def load_object(name: str, *, folder: Path) -> Any:
    """What stands at `module:attribute`."""
    module_name, colon, attribute = name.partition(":")
    words = [*module_name.split("."), *attribute.split(".")]
    if not colon or not all(word.isidentifier() for word in words):
        raise AppNameRefused(name=name, example=suggested(module_name))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found: Any = import_module(module_name, folder)
    for word in attribute.split("."):
        if not hasattr(found, word):
            raise AppMissing(module=module_name, attribute=attribute, near=nearest_attribute(found, word))
        found = getattr(found, word)
    return found


def import_module(name: str, folder: Path) -> ModuleType:
    """Import, and tell a missing module from one that fails."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except DujiangError:
        raise  # A declaration that cannot hold; it names its own place and cure.
    except ModuleNotFoundError as cause:
        if cause.name is not None and (name == cause.name or name.startswith(cause.name + ".")):
            raise AppModuleMissing(module=name, folder=str(folder), near=nearest_module(name, folder)) from cause
        raise failed(name, cause) from cause
    except (Exception, SystemExit) as cause:
        raise failed(name, cause) from cause


def failed(name: str, cause: BaseException) -> AppModuleFailed:
    """The error of a module that raised while it was imported: the deepest line outside the import machinery."""
    why = traceback.format_exception_only(cause)[-1].strip()
    if isinstance(cause, SyntaxError) and cause.filename:
        return AppModuleFailed(module=name, where=f"{cause.filename}:{cause.lineno}", why=why)
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if "importlib" not in f.filename]
    frames = [f for f in frames if f.filename != __file__] or frames
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
    return AppModuleFailed(module=name, where=where, why=why)


def suggested(module_name: str) -> str:
    """An example of a right name, near to what was written."""
    stem = module_name.removesuffix(".py").replace("/", ".").strip(".")
    return f"{stem}:app" if stem and all(word.isidentifier() for word in stem.split(".")) else "mysite:app"


def nearest_module(name: str, folder: Path) -> str:
    """A module of the folder whose name is near, as the beginning of a cure."""
    try:
        present = {p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    except OSError:
        return ""
    near = difflib.get_close_matches(name.partition(".")[0], present, n=1)
    return f"did you mean {near[0]!r}? otherwise " if near else ""


def nearest_attribute(found: Any, word: str) -> str:
    """How to cure a missing attribute: the nearest name, else the names of the apps that are there."""
    names = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
    apps = [name for name in names if type(vars(found)[name]).__name__ == "App"]
    near = apps or difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else "declare it there: `app = App(modules=[...])`"
