"""Keeper of PostgreSQL: none; the server's own tools do it better, and their names are given."""

from __future__ import annotations

from urllib.parse import urlsplit

from dujiang.data.backup import BackupElsewhere


class PostgresKeeper:
    """Refuses.

    Args:
        url: Of the database; its password is not shown.

    Raises:
        BackupElsewhere: Always, with the commands.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host, port, name = parts.hostname or "localhost", parts.port or 5432, parts.path.strip("/")
        server = f"-h {host} -p {port}"
        tools = (
            f"one database: `pg_dump {server} -Fc -f {name}.dump {name}` and `pg_restore --clean --if-exists -d {name}"
            f" {name}.dump`; the whole server with a point in time: `pg_basebackup {server} -D backup -X stream`"
            " and an archived log"
        )
        raise BackupElsewhere(url=f"postgresql://{host}:{port}/{name}", tools=tools)
