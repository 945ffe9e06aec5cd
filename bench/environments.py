"""Environments: one virtual environment per group of peers, pinned to the last package, under a cache folder.

    bench/locks/web.in   --uv pip compile-->  bench/locks/web.txt  --uv pip sync-->  HOME/venvs/web/bin/python
    (what we ask for)    python -m bench.environments --lock       made on first use

Peers never share our own environment: a peer must run on the versions it wants, and ours must not win because a peer
was held back by our pins. `python -m bench.environments --lock` moves every peer to its newest release.

An environment is rebuilt when its lock file or the interpreter changed; the stamp beside it says with what it was made.
Every environment uses the interpreter that runs the benchmark, so no side wins by a newer Python.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
LOCKS = BENCH / "locks"
NAMES = ("web", "litestar", "procrastinate", "huey", "dbos", "rabbitmq", "read")


class SetupFailed(Exception):
    """A tool or package that a benchmark needs is missing; the message names the cure."""


def home() -> Path:
    """The cache folder: $DUJIANG_BENCH_HOME, by default ~/.cache/dujiang-bench. Made if missing."""
    folder = Path(os.environ.get("DUJIANG_BENCH_HOME") or Path.home() / ".cache" / "dujiang-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python_of(name: str) -> str:
    """The interpreter of environment `name`; builds the environment first when it is missing or out of date.

    Raises:
        SetupFailed: If `uv` is missing or a package cannot be installed.
    """
    assert name in NAMES, name
    folder = home() / "venvs" / name
    python = folder / "bin" / "python"
    lock = LOCKS / f"{name}.txt"
    wanted = hashlib.sha256(f"{sys.version}\n{lock.read_text()}".encode()).hexdigest()
    stamp = folder / "made-from"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    print(f"building environment {name} in {folder}", file=sys.stderr, flush=True)
    _run([_uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([_uv(), "pip", "sync", "--quiet", "--python", str(python), str(lock)])
    stamp.write_text(wanted)
    return str(python)


def tool(name: str, *, package: str) -> str:
    """The path of a program outside Python. Raises SetupFailed, naming the Debian package, when it is missing."""
    found = shutil.which(name)
    if found is None:
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
        if not candidates:
            raise SetupFailed(f"`{name}` is missing; install it with: apt-get install {package}")
        return str(candidates[-1])
    return found


def lock_all() -> None:
    """Resolve every `.in` file again and write the `.txt` beside it."""
    for name in NAMES:
        target = LOCKS / f"{name}.txt"
        source = LOCKS / f"{name}.in"
        # Strip annotations: the file then changes only when a version does.
        done = _run([_uv(), "pip", "compile", "--quiet", "--upgrade", "--no-annotate", "--no-header", str(source)])
        target.write_text(done)


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    private = sorted((ROOT / ".tools").glob("**/bin/uv"))
    found = shutil.which("uv") or (str(beside) if beside.exists() else None) or (str(private[0]) if private else None)
    if found is None:
        raise SetupFailed("`uv` is missing; run `make up` once (it fetches uv) or: pip install uv")
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupFailed(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Build the named environments, or all; with --lock resolve the pins again first."""
    parser = argparse.ArgumentParser(prog="python -m bench.environments", description=main.__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all")
    parser.add_argument("--lock", action="store_true", help="resolve the newest versions into bench/locks first")
    arguments = parser.parse_args()
    try:
        if arguments.lock:
            lock_all()
        for name in arguments.names or NAMES:
            print(name, python_of(name))
    except SetupFailed as cause:
        print(cause, file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
