"""How our own server is started: `dujiang up`, as a user would."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.processes import Command


def up(app: str, port: int, store: str, *, consuming: bool = True) -> Command:
    """One process of `dujiang up APP`.

    Args:
        app: "bench.ours.shop:app".
        port: Of 127.0.0.1.
        store: postgresql:// URL, or the path of an SQLite file.
        consuming: Whether relay and reactions run; False serves requests only.
    """
    url = store if "://" in store else f"sqlite:///{store}"
    env = {"DUJIANG_DATABASE": url, "DUJIANG_PORT": str(port)}
    if not consuming:
        env["DUJIANG_ROLES"] = "gateway"
    return Command(words=(str(Path(sys.executable).with_name("dujiang")), "up", app), env=env)
