"""Stored: whether a version of the code could go on with what is stored, asked without changing anything.

A start refuses what it cannot read (messaging/contracts.py) and what it would strand (messaging/catalogue.py). `dujiang
migrate` asks the same before it touches the tables, so that a deploy which cannot start is told before its first irrevocable
step, and `dujiang doctor` whenever somebody wonders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.messaging.catalogue import check_catalogue
from dujiang.messaging.contracts import check_stored
from dujiang.saga.stranded import check_sagas

if TYPE_CHECKING:
    from dujiang.app.runtime import Runtime

__all__ = ["check_store"]


async def check_store(runtime: Runtime) -> dict[str, int]:
    """The reactions that would be left to other versions, and how much waits for each.

    Args:
        runtime: A copy whose database is open, and holds the platform's tables.

    Raises:
        ContractBroken: What is stored cannot be read.
        SagasStranded: Open sagas could not go on.
        NamesStranded, EventStranded: Work would wait for ever.
    """
    renamed = runtime.app.renamed
    await check_stored(runtime.database, runtime.composition.readables(), renamed, remember=False)
    await check_sagas(runtime.database, runtime.composition.kinds(), renamed)
    subscriptions = runtime.composition.subscriptions()
    return await runtime.database.read(lambda connection: check_catalogue(connection, subscriptions, renamed))
