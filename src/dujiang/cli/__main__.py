"""`python -m dujiang.cli`: the same as `dujiang`; the supervisor starts its workers by it."""

from __future__ import annotations

from dujiang.cli.main import run

if __name__ == "__main__":
    run()
