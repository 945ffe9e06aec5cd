"""Arrays: many rows of one INSERT as one row of arrays.

    INSERT INTO t (a, b) VALUES ($1::BIGINT, $2::VARCHAR)                             once for each row
    INSERT INTO t (a, b) SELECT * FROM unnest($1::BIGINT[], $2::VARCHAR[])            once

The driver sends many rows as many executions in one round trip, and the server pays for each of them: binding,
snapshot, executor. As arrays a row costs a fifth. Only an INSERT of plain parameters of plain types is turned, because
there the two mean the same: the rows arrive in their order, defaults and triggers run for each, and a constraint fails
under the same name. (One difference is left: a foreign key is checked after the last row.)

Rejected: the same for UPDATE. Row by row it locks in the caller's order, which is how two transactions avoid a
deadlock; a join locks in the planner's.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Types whose arrays hold what the type holds. Not JSON and the like: the driver's codecs for them may be the user's.
TYPE = "BIGINT|INTEGER|SMALLINT|VARCHAR|TEXT|BOOLEAN|BYTEA|UUID|DATE|FLOAT|NUMERIC|TIMESTAMP WITH(?:OUT)? TIME ZONE"
PLAIN_INSERT = re.compile(
    rf"(INSERT INTO [^()]+ \([^()]+\)) VALUES \(((?:\$\d+::(?:{TYPE})(?:, (?=\$))?)+)\)( ON CONFLICT DO NOTHING)?"
)
ROWS_MAX = 1000


@lru_cache(maxsize=500)
def array_form(text: str) -> str | None:
    """The statement that takes an array for each parameter of `text`; None if they might not mean the same."""
    match = PLAIN_INSERT.fullmatch(text)
    if match is None:
        return None
    places = match[2].split(", ")
    if [place.partition("::")[0] for place in places] != [f"${number}" for number in range(1, len(places) + 1)]:
        return None
    arrays = ", ".join(f"{place}[]" for place in places)
    return f"{match[1]} SELECT * FROM unnest({arrays}){match[3] or ''}"
