"""Status: the platform's own module of an app with jobs: their addresses.

    GET    /api/v1/jobs/{job_id}      how a job stands
    DELETE /api/v1/jobs/{job_id}      cancel it

They are verbs like any others, so they have what verbs have: keys, problem documents, limits, a place in OpenAPI.
"""

from dujiang.data.types import Id
from dujiang.jobs.view import PATH, JobView, cancel_job, read_job
from dujiang.messaging.tx import Read, Tx
from dujiang.module import Module

__all__ = ["status"]


def status() -> Module:
    """The module, made anew: a declaration belongs to one app."""
    jobs = Module("dujiang")

    @jobs.read(f"GET {PATH}/{{job_id}}", name="job")
    async def job(db: Read, job_id: Id) -> JobView:
        """How a job stands: its state, its progress, and its result once it is done."""
        return await read_job(db, job_id)

    @jobs.write(f"DELETE {PATH}/{{job_id}}", name="cancel_job")
    async def cancel(tx: Tx, job_id: Id) -> JobView:
        """Cancel a job: at once if it waits, else it is asked to end; `cancelling` says that it still runs."""
        return await cancel_job(tx, job_id)

    return jobs
