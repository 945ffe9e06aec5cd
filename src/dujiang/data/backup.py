"""Backup: what a copy of a store is, on every database that makes its own.

    TARGET/store.db         the store as it was at one moment, whole and checked
    TARGET/manifest.json    when, by which version, which schema, how many rows, SHA-256 of store.db; written last

A backup is a folder that appears by one rename, complete and synced: whatever ends the work before, `kill -9` and power
included, leaves a folder `.TARGET.part`, which no restore accepts and the next backup of that name removes. Everything
that was acknowledged before the backup began is in it; what is acknowledged meanwhile may be.

The process that owns the store makes the copy, while commits go on. A server database has tools of its own that
do more (a log that is archived, a point in time), so its adapter refuses and names them.

tests/unit/backends/sqlite/test_backup.py cuts, swaps and damages backups; tests/cli/test_backup.py makes them under load.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dujiang.kernel.clock import instant
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import Threads, ended

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from dujiang.kernel.node import Node

FORMAT = 1
STORE_FILE, MANIFEST_FILE = "store.db", "manifest.json"
MANIFEST_BYTES_MAX = 1024 * 1024

logger = logging.getLogger("dujiang.backup")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup says about itself.

    Attributes:
        format: Of the folder; this code knows `FORMAT`.
        product: The version of Dujiang that made it.
        made: When its moment was, RFC 3339, UTC.
        bytes: Length of store.db.
        sha256: Of store.db, hexadecimal.
        schema: The revision in each table of versions.
        rows: The number of rows of each table.
    """

    format: int
    product: str
    made: str
    bytes: int
    sha256: str
    schema: dict[str, str]
    rows: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return asdict(self)


@dataclass
class Progress:
    """How far a backup or restore is; changed by the thread that works, read by whoever shows it.

    Attributes:
        stage: `copy`, `check` or `count`.
        done: Bytes copied.
        total: Bytes in all; 0 = not known yet.
        cancelled: Set to end the work at its next slice.
    """

    stage: str = "copy"
    done: int = 0
    total: int = 0
    cancelled: bool = False


class Keeper(Protocol):
    """Copies a store out and in; one for each adapter that can. Its methods block: they belong into a thread."""

    def __init__(self, url: str) -> None:
        """`url` names the store. Raises BackupElsewhere."""
        ...

    def copy(self, target: Path, progress: Progress, product: str, made: str) -> Manifest:
        """Make a backup of the open store.

        Raises:
            BackupTaken: `target` exists, or is being made.
            BackupCancelled: As `progress` asked.
            DiskFull, DiskFailed, DatabaseUnreachable: Nothing is left but room.
        """
        ...

    def claim(self) -> AbstractContextManager[None]:
        """Keep every process from opening the store for the block. Raises StoreInUse."""
        ...

    def filled(self) -> bool:
        """Whether there is a store already."""
        ...

    def unpack(self, source: Path, manifest: Manifest, progress: Progress) -> str:
        """Copy a backup beside the store and check it: the URL of the copy. Raises BackupDamaged."""
        ...

    def put(self) -> Path | None:
        """Put the unpacked copy in the place of the store; where the old one was put aside, if there was one."""
        ...


@dataclass(eq=False, kw_only=True)
class BackupElsewhere(DujiangError):
    """Backups of this database are made by its own tools."""

    code = "backup_elsewhere"
    move = "fix"
    status = 400
    says = "{url} is a server database; its backups are made by its own tools, which keep its log too"
    cure = "{tools}"

    url: str
    tools: str


@dataclass(eq=False, kw_only=True)
class BackupTaken(DujiangError):
    """The target of a backup exists already, or is being made."""

    code = "backup_taken"
    move = "choose"
    says = "{target} {why}"
    cure = "name another target; a backup never overwrites one"

    target: str
    why: str


@dataclass(eq=False, kw_only=True)
class BackupTarget(DujiangError):
    """The target of a backup cannot be written."""

    code = "backup_target"
    move = "fix"
    status = 400
    exit_code: ClassVar[int] = 65
    says = "cannot make a backup at {target}: {why}"
    cure = "name a folder that does not exist yet, in one that does, in which the process that owns the store may write"

    target: str
    why: str


@dataclass(eq=False, kw_only=True)
class BackupRunning(DujiangError):
    """A backup of this store is under way."""

    code = "backup_running"
    move = "wait"
    says = "a backup to {target} is under way"

    target: str


@dataclass(eq=False, kw_only=True)
class BackupCancelled(DujiangError):
    """The backup was cancelled, and nothing of it is left."""

    code = "backup_cancelled"
    move = "choose"
    says = "the backup to {target} was cancelled"

    target: str


@dataclass(eq=False, kw_only=True)
class NoBackup(DujiangError):
    """What was named is no backup."""

    code = "no_backup"
    move = "fix"
    exit_code: ClassVar[int] = 65
    says = "{source} is no backup: {why}"
    cure = "name the folder that `dujiang backup` made; it holds store.db and manifest.json"

    source: str
    why: str


@dataclass(eq=False, kw_only=True)
class BackupDamaged(DujiangError):
    """The backup is not what it was when it was made."""

    code = "backup_damaged"
    move = "fix"
    exit_code: ClassVar[int] = 65
    says = "the backup {source} is damaged: {why}"
    cure = "use another backup; nothing was changed"

    source: str
    why: str


@dataclass(eq=False, kw_only=True)
class BackupAhead(DujiangError):
    """The backup was made by a newer version of the code."""

    code = "backup_ahead"
    move = "fix"
    says = "{source} is at {names}, which this code does not know; it was made by Dujiang {product}"
    cure = "restore it with the version of the code that made it, or a later one; nothing was changed"

    source: str
    names: str
    product: str


@dataclass(eq=False, kw_only=True)
class StoreNotEmpty(DujiangError):
    """There is a store where the backup should go."""

    code = "store_not_empty"
    move = "choose"
    says = "{path} holds a store already"
    cure = "--force puts it aside under another name and restores; or name another folder with --data"

    path: str


def read_manifest(source: Path) -> Manifest:
    """The manifest of a backup. Raises NoBackup, BackupDamaged or BackupAhead."""
    shown = str(source)
    if not source.exists():
        raise NoBackup(source=shown, why="it does not exist")
    if not source.is_dir():
        raise NoBackup(source=shown, why="it is a file")
    try:
        text = (source / MANIFEST_FILE).read_bytes()[:MANIFEST_BYTES_MAX]
    except FileNotFoundError:
        unfinished = source.name.endswith(".part")
        why = "the backup was never finished" if unfinished else f"it holds no {MANIFEST_FILE}"
        raise NoBackup(source=shown, why=why) from None
    try:
        found = json.loads(text)
        if int(found["format"]) > FORMAT:
            names = f"format {found['format']}"
            raise BackupAhead(source=shown, names=names, product=str(found.get("product", "unknown")))
        return Manifest(
            format=int(found["format"]),
            product=str(found["product"]),
            made=str(found["made"]),
            bytes=int(found["bytes"]),
            sha256=str(found["sha256"]),
            schema={str(name): str(value) for name, value in found["schema"].items()},
            rows={str(name): int(value) for name, value in found["rows"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise BackupDamaged(source=shown, why=f"{MANIFEST_FILE} cannot be read: {cause!r}") from cause


@dataclass
class Standing:
    """What became of the last backup that this process was asked for.

    Attributes:
        state: `none`, `running`, `done`, `failed`.
        target: Where to.
        progress: How far.
        manifest: When done.
        error: When failed.
    """

    state: str = "none"
    target: str = ""
    progress: Progress = field(default_factory=Progress)
    manifest: Manifest | None = None
    error: DujiangError | None = None

    def to_json(self) -> dict[str, Any]:
        """The standing as JSON values."""
        error = self.error
        return {
            "state": self.state,
            "target": self.target,
            "stage": self.progress.stage,
            "done": self.progress.done,
            "total": self.progress.total,
            "manifest": self.manifest.to_json() if self.manifest else None,
            "error": {"code": error.code, "move": error.move, "what": error.detail, "cure": error.hint}
            if error
            else None,
        }


class Backups:
    """Makes backups of the store of one running copy, one at a time, in a thread of their own.

    Args:
        node: Time and tasks.
        keeper: Makes the adapter's keeper; called when a backup is asked for.
        product: The version that the manifest names.
    """

    def __init__(self, node: Node, keeper: Callable[[], Keeper], product: str) -> None:
        self._node = node
        self._keeper = keeper
        self._product = product
        self._task: asyncio.Task[None] | None = None
        self.standing = Standing()

    def __repr__(self) -> str:
        return f"<Backups {self.standing.state}>"

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Cancel what runs, and wait until nothing of it is left."""
        if self._task is not None:
            self.cancel()
            await ended(self._task)

    def begin(self, target: str) -> Standing:
        """Begin a backup in the background. Raises BackupRunning, BackupTaken, BackupTarget or BackupElsewhere."""
        if self.standing.state == "running":
            raise BackupRunning(target=self.standing.target)
        keeper = self._keeper()
        path = Path(target)
        if not path.is_absolute() or path.name in ("", ".."):
            raise BackupTarget(target=target, why="it is no absolute path")
        if path.exists() or path.is_symlink():
            raise BackupTaken(target=target, why="exists already")
        if not path.parent.is_dir():
            raise BackupTarget(target=target, why=f"there is no folder {path.parent}")
        self.standing = Standing("running", target)
        self._task = self._node.tasks.spawn(self._run(keeper, path, self.standing), name="backup")
        return self.standing

    def cancel(self) -> None:
        """End the running backup at its next slice."""
        self.standing.progress.cancelled = True

    async def finished(self) -> Manifest:
        """Wait for the running backup. Raises what it failed with."""
        assert self._task is not None
        await ended(self._task)
        if self.standing.error is not None:
            raise self.standing.error
        assert self.standing.manifest is not None
        return self.standing.manifest

    async def _run(self, keeper: Keeper, path: Path, standing: Standing) -> None:
        threads = Threads(1, name="dujiang-backup")
        made = moment(self._node.clock.now_us())
        try:
            standing.manifest = await threads.run(keeper.copy, path, standing.progress, self._product, made)
            standing.state = "done"
            logger.info("backup of %d bytes at %s", standing.manifest.bytes, path)
        except DujiangError as error:
            standing.error, standing.state = error, "failed"
            logger.warning("no backup: %s", error)
        except BaseException:
            standing.progress.cancelled = True  # The thread outlives its task; it is to end too.
            standing.error, standing.state = BackupCancelled(target=str(path)), "failed"
            raise
        finally:
            threads.close()


def moment(now_us: int) -> str:
    """A time as manifests write it."""
    return instant(now_us).isoformat(timespec="seconds").replace("+00:00", "Z")
