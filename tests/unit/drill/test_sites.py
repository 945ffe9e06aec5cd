"""Sites: whose file it is decides what a story names, and which modules are sealed and remembered."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

import dujiang
from dujiang.drill.escape import users_modules
from dujiang.drill.sites import kind_of, kind_of_file
from dujiang.systems.shop import orders
from tests.drill import apps

HOME = Path(dujiang.__file__).parent
USERS, PLATFORM, NOBODYS = 0, 1, 2


class TestWhoseFileItIs:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            (f"{HOME}/write.py", PLATFORM),
            (f"{HOME}/systems/shop/orders.py", USERS),
            (f"{HOME}/drill/run.py", NOBODYS),
            (f"{HOME}/backends/sqlite/simulated/store.py", NOBODYS),
            (f"{HOME}/backends/sqlite/file.py", PLATFORM),
            (f"{sysconfig.get_paths()['stdlib']}/json/__init__.py", NOBODYS),
            ("/srv/.venv/lib/python3.12/site-packages/sqlalchemy/orm.py", NOBODYS),
            ("<string>", NOBODYS),
            ("/srv/shop/orders.py", USERS),
            ("/home/someone/dujiang/app.py", USERS),
            ("/home/someone/dujiang/drill/app.py", USERS),
        ],
    )
    def test_by_where_it_lies(self, path: str, kind: int) -> None:
        """The platform is its own installed folder, and no other that has the same name."""
        assert kind_of_file(path) == kind

    def test_code_that_looks_alike_is_judged_by_its_own_file(self) -> None:
        """Two code objects of equal text are equal, and still belong to different people."""
        library, users = (compile("", path, "exec") for path in ("/x/site-packages/a.py", "/srv/shop/b.py"))

        assert library == users
        assert (kind_of(library), kind_of(users)) == (NOBODYS, USERS)

    def test_modules_of_the_user_are_found(self) -> None:
        """An app's own and the shop's; neither the platform's nor a library's."""
        found = {module.__name__ for module in users_modules()}

        assert {apps.__name__, orders.__name__} <= found
        assert not found & {"dujiang.write", "dujiang.drill.sites", "sqlalchemy", "json", "pytest"}
