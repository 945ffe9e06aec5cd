"""Marks: the two files that a running `up` leaves in the data folder, for the operator's commands.

    operator.token    the bearer token of the operations API; kept over restarts, so that scripts may hold it
    up.json           where the process listens, and its pid; removed by a clean stop

Both are made with mode 0600 and put in place by a rename: a reader never sees half of one. A token that others could
read is taken for known to others and drawn anew.
"""

from __future__ import annotations

import base64
import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.kernel.entropy import Entropy

TOKEN_FILE = "operator.token"  # noqa: S105  (a file's name)
ADDRESS_FILE = "up.json"
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


def keep_token(data: Path, entropy: Entropy) -> str:
    """The operator's token of this data folder; drawn (256 bits) when there is none that only its owner could read."""
    path = data / TOKEN_FILE
    try:
        private = path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o077 == 0
    except OSError:
        private = False
    token = read_token(data) if private else ""
    if TOKEN.fullmatch(token):
        return token
    token = base64.urlsafe_b64encode(entropy.secret(32)).rstrip(b"=").decode()
    write_private(path, token + "\n")
    return token


def read_token(data: Path) -> str:
    """The operator's token, or an empty text."""
    try:
        return (data / TOKEN_FILE).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def keep_address(data: Path, *, host: str, port: int, pid: int) -> None:
    """Say where the process of this folder listens."""
    write_private(data / ADDRESS_FILE, json.dumps({"host": host, "port": port, "pid": pid}) + "\n")


def read_address(data: Path) -> tuple[str, int] | None:
    """Host and port of the process of this folder, or None."""
    try:
        found = json.loads((data / ADDRESS_FILE).read_text("utf-8"))
        return str(found["host"]), int(found["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def drop_address(data: Path, *, pid: int) -> None:
    """Remove up.json if this process wrote it."""
    path = data / ADDRESS_FILE
    try:
        if json.loads(path.read_text("utf-8")).get("pid") == pid:
            path.unlink()
    except (OSError, ValueError, AttributeError):
        return


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "w") as stream:
            os.fchmod(file, 0o600)  # An older draft may have had another mode.
            stream.write(text)
            stream.flush()
            os.fsync(file)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
