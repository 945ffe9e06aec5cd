"""The platform's own statements: text with `$1 .. $n`, a name, and a sentence that says what it does.

A statement lives in the module that owns its table. Where databases differ, its variants stand side by side there and
are chosen by a declared capability. Adapters translate `$n` to the driver's style, once per statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PARAMETER = re.compile(r"\$(\d+)")


@dataclass(frozen=True, eq=False)
class Sql:
    """One named statement.

    Attributes:
        name: Unique; shown in logs, metrics and errors.
        text: The SQL, with `$1 .. $n`.
        says: One sentence: what it does.
        claims: For an insert that only claims a key, the SELECT that answers what it would return. It takes the same
            parameters. Databases hold the key by its unique index; a simulation holds the key alone, not its one writer.
    """

    name: str
    text: str
    says: str
    claims: str = ""
    numbered: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Prepare the form with `?n` for drivers that want it."""
        object.__setattr__(self, "numbered", PARAMETER.sub(r"?\1", self.text))

    def shifted(self, by: int) -> str:
        """The text with every parameter number raised by `by`, for use inside a larger statement."""
        return PARAMETER.sub(lambda match: f"${int(match[1]) + by}", self.text) if by else self.text
