"""`python -m bench NAME [...]`: run one claim; without a name, list them. `dujiang bench` calls this in a checkout."""

from __future__ import annotations

import sys
from importlib import import_module

from bench.runner import main

NAMES = ("write", "embedded", "http", "read", "events", "jobs", "ledger", "rabbitmq", "startup", "drill")


def run(argv: list[str]) -> int:
    """The exit code of the claim; 64 when the name is unknown."""
    if argv and argv[0] in NAMES:
        return main(import_module(f"bench.{argv[0]}").CLAIM, argv[1:])
    print("usage: python -m bench NAME [--rounds N] [--seconds S] [--sides A,B] [--json]", file=sys.stderr)
    for name in NAMES:
        print(f"  {name:<10}{import_module(f'bench.{name}').CLAIM.says}", file=sys.stderr)
    return 0 if not argv else 64


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
