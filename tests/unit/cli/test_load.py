"""Loading an application: the mistakes are told apart, with the user's own line where there is one.

The numbers in the ids are those of the list of command lines (CLI corpus).
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import pytest

from dujiang.app import App
from dujiang.cli.load import load_app, load_object
from dujiang.kernel.errors import Declared, DujiangError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on no path yet; what is imported from it is forgotten afterwards."""
    known, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name.startswith("site_q"):
            del sys.modules[name]


def refused(name: str, folder: Path) -> DujiangError:
    """The error of loading this name."""
    with pytest.raises(DujiangError) as caught:
        load_app(name, folder=folder)
    return caught.value


def module(folder: Path, text: str) -> str:
    """A new module with this text."""
    name = f"site_q{next(NUMBERS)}"
    (folder / f"{name}.py").write_text(text)
    return name


BROKEN = [
    pytest.param("x = 1\nboom()\n", ":2: NameError: name 'boom' is not defined", id="11-name"),
    pytest.param("x = 1\n\nif\n", ":3: SyntaxError: invalid syntax", id="11-syntax"),
    pytest.param("import no_such_q\n", ":1: ModuleNotFoundError: No module named 'no_such_q'", id="11-import-inside"),
    pytest.param("from os import nope_q\n", ":1: ImportError: cannot import name 'nope_q'", id="11-from"),
    pytest.param("import sys\nsys.exit(3)\n", ":2: SystemExit: 3", id="11-exit"),
    pytest.param("def f():\n    raise KeyError('k')\nf()\n", ":2: KeyError: 'k'", id="11-deeper"),
]


class TestLoad:
    @pytest.mark.parametrize(
        "name", ["shop", "shop.py", "", ":", "shop:", ":app", "a b:app", "shop:app()", "../shop:app"]
    )
    def test_10_a_name_of_another_form_is_usage(self, folder: Path, name: str) -> None:
        """What is not module:attribute is refused with an example near to it."""
        error = refused(name, folder)

        assert error.code == "app_name"
        assert ":app" in error.hint

    def test_10_a_module_that_is_not_there_names_the_folder_and_the_nearest(self, folder: Path) -> None:
        """Run in the wrong folder, or mistyped: the folder that was searched and the nearest module are named."""
        (folder / "mysite.py").write_text("")

        error = refused("mysiet:app", folder)

        assert error.code == "app_module_missing"
        assert str(folder) in error.detail
        assert "did you mean 'mysite'?" in error.hint

    def test_10_a_missing_package_of_a_dotted_name_is_the_same(self, folder: Path) -> None:
        """`a.b:app` without `a` is a missing module and not a failing one."""
        assert refused("no_such_q.inner:app", folder).code == "app_module_missing"

    @pytest.mark.parametrize(("text", "expected"), BROKEN)
    def test_11_a_module_that_fails_shows_its_line(self, folder: Path, text: str, expected: str) -> None:
        """The user's own file and line and the original error's last line are shown."""
        name = module(folder, text)

        error = refused(f"{name}:app", folder)

        assert error.code == "app_module_failed"
        assert f"{folder / name}.py{expected}" in error.detail

    def test_11_a_declaration_that_cannot_hold_speaks_for_itself(self, folder: Path) -> None:
        """An error of ours from the module passes unchanged, with its own cure."""
        name = module(
            folder, "from dujiang.kernel.errors import Declared\nraise Declared(where='w', what='x', how='h')\n"
        )

        assert isinstance(refused(f"{name}:app", folder), Declared)

    def test_12_a_missing_attribute_names_the_app_that_is_there(self, folder: Path) -> None:
        """The module's App is suggested, otherwise the nearest name, otherwise how to declare one."""
        with_app = module(folder, "from dujiang.app import App\nservice = App(modules=[])\n")
        with_near = module(folder, "appl = 1\n")
        without = module(folder, "")

        hints = [refused(f"{name}:app", folder).hint for name in (with_app, with_near, without)]

        assert hints == [
            "did you mean 'service'?",
            "did you mean 'appl'?",
            "declare it there: `app = App(modules=[...])`",
        ]

    def test_13_something_else_than_an_app_is_named(self, folder: Path) -> None:
        """The kind of the object is named; for a FastAPI application the way to attach one."""
        name = module(folder, "from fastapi import FastAPI\napp = FastAPI()\nx = 5\n")

        assert "is a int, not a dujiang.App" in refused(f"{name}:x", folder).detail
        assert "app.attach(fastapi_app)" in refused(f"{name}:app", folder).hint

    def test_16_a_folder_with_spaces_and_chinese_is_fine(self, folder: Path) -> None:
        """The application is found wherever its folder is, also inside a package and behind an attribute."""
        place = folder / "都江 堰"
        package = place / f"site_q{next(NUMBERS)}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "web.py").write_text("from dujiang.app import App\nclass Site:\n    app = App(modules=[])\n")

        assert isinstance(load_app(f"{package.name}.web:Site.app", folder=place), App)

    def test_what_is_installed_is_found_too(self, folder: Path) -> None:
        """Names are not bound to the current folder."""
        assert load_object("os.path:join", folder=folder) is not None
