"""Facts: what the server says about itself and about our sessions on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.sql import Sql

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE = Sql("facts_one", "SELECT 1", "Finds out whether the server answers.")

DURABILITY = Sql(
    "facts_durability",
    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes',"
    " 'server_version', 'synchronous_standby_names') ORDER BY name",
    "Reads the settings that decide what an acknowledgement means.",
)

# The call stands in the list of columns, never among the conditions: there the planner may run it first, for every session.
END_SESSIONS = Sql(
    "facts_end_sessions",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()",
    "Ends the server processes of one node.",
)

ON_STANDBY = {
    "on": "on the disk of the primary and of the standbys in synchronous_standby_names",
    "remote_write": "on the disk of the primary, and received by the standbys in synchronous_standby_names",
    "remote_apply": "on the disk of the primary, and on disk and visible on the standbys in synchronous_standby_names",
}


def is_safe(settings: Mapping[str, str]) -> bool:
    """Whether an acknowledged write outlives a crash of the server's machine."""
    return settings.get("synchronous_commit") != "off" and "off" not in (
        settings.get("fsync"),
        settings.get("full_page_writes"),
    )


def meaning(settings: Mapping[str, str]) -> str:
    """One sentence: what has happened to a write when it is acknowledged."""
    level = settings.get("synchronous_commit", "on")
    if settings.get("fsync") == "off":
        return "an acknowledged write may be lost when the machine stops: fsync is off"
    if level == "off":
        return "an acknowledged write may be lost when the server stops: synchronous_commit is off"
    if settings.get("synchronous_standby_names") and level in ON_STANDBY:
        where = ON_STANDBY[level]
    else:
        where = "on the disk of the primary; it survives a crash, and not the loss of that disk"
    torn = settings.get("full_page_writes") == "off"
    return f"an acknowledged write is {where}" + ("; full_page_writes is off: a torn page may lose it" if torn else "")
