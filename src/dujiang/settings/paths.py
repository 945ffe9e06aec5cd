"""Paths: whether a folder that a setting names exists or can be made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def why_no_folder(path: Path) -> str:
    """Why nothing could be written in this folder, made if it must be; empty when it could."""
    nearest = path
    # `lexists`, because a link that leads nowhere stands in the way as a file does.
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        if not nearest.is_dir():
            return f"{nearest} is not a folder"
        if not os.access(nearest, os.W_OK | os.X_OK):
            return f"{nearest} may not be written by this user"
    except OSError as cause:
        return f"{nearest}: {cause.strerror}"
    return ""
