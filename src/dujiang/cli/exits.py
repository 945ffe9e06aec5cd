"""Exits: the codes with which a command ends, by sysexits.h, and which error has which.

    0    done                              70   internal: our bug
    1    `audit` found violations          78   configuration: settings, app, schema, rights
    64   usage: the command line           130  Ctrl-C
    65   data: what was given or named     141  the reader of a pipe went away
    69   unavailable: try again when the machine has changed

A taken port and a store that is open elsewhere are 69, not 78: the settings are right, the moment is not.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.kernel.errors import Move

DONE = 0
FAILED = 1
USAGE = 64
DATA = 65
UNAVAILABLE = 69
INTERNAL = 70
CONFIG = 78
INTERRUPTED = 130
PIPE_CLOSED = 141

EXIT_OF_MOVE: dict[Move, int] = {"fix": CONFIG, "choose": DATA, "wait": UNAVAILABLE, "report": INTERNAL}
EXIT_OF_CODE = {"store_in_use": UNAVAILABLE}
EXIT_OF_ERRNO = {
    errno.ENOSPC: UNAVAILABLE,
    errno.EDQUOT: UNAVAILABLE,
    errno.EMFILE: UNAVAILABLE,
    errno.EACCES: CONFIG,
    errno.EPERM: CONFIG,
    errno.EROFS: CONFIG,
}


def exit_code_of(error: BaseException) -> int:
    """The exit code of an error: the class's own `exit_code`, then its code, then its move."""
    if isinstance(error, DujiangError):
        own = getattr(error, "exit_code", None)
        return own if isinstance(own, int) else EXIT_OF_CODE.get(error.code, EXIT_OF_MOVE[error.move])
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError):
        return EXIT_OF_ERRNO.get(error.errno or 0, INTERNAL)
    return INTERNAL
