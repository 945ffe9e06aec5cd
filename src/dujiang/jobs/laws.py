"""Laws: what the platform promises of schedules; checked by `dujiang audit` and at the end of every drill. Rows are violations."""

from __future__ import annotations

from dujiang.data.sql import Sql
from dujiang.jobs.schedules import LATE_US, OWNER
from dujiang.kernel.ids import first_id_at

__all__ = ["NOT_LATE", "ONE_JOB", "not_late_args", "one_job_args"]

LOOKED_BACK_US = 86_400_000_000

NOT_LATE = Sql(
    "law_schedule_not_late",
    """SELECT s.name, d.next_us FROM dj_schedule d JOIN dj_subscription s ON s.sub_id = d.schedule_id
       WHERE s.active = 1 AND d.paused_us IS NULL AND d.next_us < $1 ORDER BY d.next_us LIMIT 100""",
    "Schedules whose time has come, and for which nobody has fired it.",
)
ONE_JOB = Sql(
    "law_schedule_one_job",
    """SELECT s.name, j.job_id FROM dj_job j JOIN dj_subscription s ON s.sub_id = j.sub_id
       WHERE j.job_id >= $1 AND j.owner = $2
         AND NOT EXISTS (SELECT 1 FROM dj_fire f WHERE f.job_id = j.job_id) ORDER BY j.job_id LIMIT 100""",
    "Jobs that the clock has made without a time of their own: a time has made two.",
)


def not_late_args(now_us: int, late_us: int = LATE_US) -> tuple[int]:
    """The parameters of NOT_LATE."""
    return (now_us - late_us,)


def one_job_args(now_us: int) -> tuple[int, str]:
    """The parameters of ONE_JOB: the jobs of the last day."""
    return (first_id_at(now_us - LOOKED_BACK_US), OWNER)
