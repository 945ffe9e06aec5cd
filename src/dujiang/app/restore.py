"""Restore: a backup takes the place of a store, or nothing changes.

    manifest ─► schema known? ─► store closed to all ─► copy beside it: length, SHA-256, SQLite's check, rows
             ─► what a dead process held is put back ─► old store aside ─► new name, synced

Until the last line the store is as it was. What the copied process was doing at the moment of the backup is nobody's any
more, so its lease is ended in the copy: whoever starts takes the open work over at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.app.schema import histories
from dujiang.backends.table import load, load_keeper
from dujiang.data import migrate
from dujiang.data.backup import BackupAhead, Manifest, Progress, StoreNotEmpty, read_manifest
from dujiang.data.history import PLATFORM
from dujiang.data.process import END, SAME_INSTANCE
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Threads
from dujiang.messaging.work import release_lease
from dujiang.settings import file_of

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.app.declaration import App
    from dujiang.data.backup import Keeper
    from dujiang.data.database import Connection, Database


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did.

    Attributes:
        manifest: Of the backup.
        path: The store.
        aside: Where the store lies that was there before; None if there was none.
        pending: Migrations that the code has and the backup has not; the next start runs them.
    """

    manifest: Manifest
    path: str
    aside: str | None
    pending: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        shown = {"path": self.path, "aside": self.aside, "pending": list(self.pending)}
        return {**shown, "manifest": self.manifest.to_json()}


async def restore(source: Path, url: str, *, app: App | None, force: bool, progress: Progress) -> Restored:
    """Put a backup in the place of the embedded store at `url`.

    Args:
        source: The folder that a backup made.
        url: The store.
        app: The code that will run on it; None = only the platform's own tables are judged.
        force: Whether a store that is there may be put aside.
        progress: Told how far it is.

    Raises:
        BackupElsewhere: The URL names a server.
        NoBackup, BackupDamaged, BackupAhead: The backup is refused.
        StoreInUse, StoreNotEmpty: The store is.
        DiskFull, DiskFailed: As they say.
    """
    keeper: Keeper = load_keeper(url)(url)
    manifest = read_manifest(source)
    pending, current = judged(source, manifest, app)
    path = str(file_of("database", url) or url)
    with keeper.claim():
        if keeper.filled() and not force:
            raise StoreNotEmpty(path=path)
        threads = Threads(1, name="dujiang-restore")
        try:
            copy = await threads.run(keeper.unpack, source, manifest, progress)
            if current:
                await end_leases(copy)
            aside = await threads.run(keeper.put)
        finally:
            threads.close(wait=True)
    return Restored(manifest=manifest, path=path, aside=str(aside) if aside else None, pending=pending)


def judged(source: Path, manifest: Manifest, app: App | None) -> tuple[tuple[str, ...], bool]:
    """What is pending in the backup, and whether the platform's own tables are current. Raises BackupAhead."""
    pending: list[str] = []
    ahead: list[str] = []
    current = False
    for history in histories(app.modules) if app is not None else [PLATFORM]:
        known = [script.revision for script in migrate.load(history).walk_revisions()][::-1]
        at = manifest.schema.get(history.table, "")
        if at and at not in known:
            ahead.append(f"{history} {at}")
            continue
        missing = known[known.index(at) + 1 :] if at else known
        pending += [f"{history} {revision}" for revision in missing]
        current = current or (history == PLATFORM and not missing)
    if ahead:
        raise BackupAhead(source=str(source), names=", ".join(ahead), product=manifest.product)
    return tuple(pending), current


async def end_leases(url: str) -> None:
    """Put back what the processes of a copied store held, and end their rows: none of them lives in the copy."""
    node = Node.system("restore")
    database: Database = load("database", url)(url, node)
    await database.start()
    try:

        async def body(connection: Connection) -> None:
            for lease, _ in await connection.fetch(SAME_INSTANCE):
                await connection.fetch(END, lease)
                await release_lease(connection, lease, node.clock.now_us())

        await database.write(body)
    finally:
        await database.stop()
