"""How our own server is started: `dujiang up`, as a user would."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.environments import ROOT, home
from bench.processes import Command

POOL_SIZE = 30  # As peers/shapes.py.


def up(app: str, port: int, store: str) -> Command:
    """One process of `dujiang up APP`.

    Args:
        app: "bench.ours.shop:app".
        port: Of 127.0.0.1.
        store: postgresql:// URL, or the path of an SQLite file; what else the process keeps goes beside the file.
    """
    program = str(Path(sys.executable).with_name("dujiang"))
    url = store if "://" in store else f"sqlite:///{store}"
    data = home() / "data" / "ours" if url is store else Path(store).parent
    words = (program, "up", app, "--port", str(port), "--database", url, "--data", str(data))
    # BENCH_STORE tells shop.py which settings to read back; PYTHONPATH lets `dujiang` find `bench`.
    env = {"PYTHONPATH": str(ROOT), "BENCH_STORE": url, "DUJIANG_POOL_SIZE": str(POOL_SIZE)}
    return Command(words=words, env=env)
