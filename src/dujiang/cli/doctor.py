"""`dujiang doctor`: what is set, what the database can do, what an acknowledgement means now, and what is wrong.

Everything that can be looked at is looked at, so that one run shows all there is; a part that fails becomes a problem
of the report. What a commit means is read back from the database, not from our settings: somebody may have switched its
fsync off.
"""

import asyncio
import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, DataFlag, JsonFlag, settings_of
from dujiang.cli.exits import DONE, exit_code_of
from dujiang.cli.output import printable, say, say_json, say_table
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.app import Runtime
    from dujiang.settings import Settings

FREE_LEAST_BYTES = 2**30
SKEW_MOST_MS = 2000.0
NEWER = "the tables are at %s, which this version of the code does not know; it only added something"
REMOTE_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "glusterfs", "ceph")


def doctor(
    app: AppName = DEFAULT_APP, *, as_json: JsonFlag = False, data: DataFlag = None, config: ConfigFlag = None
) -> int:
    """Show the resolved settings, the database's abilities and guarantees, and every problem."""
    settings = settings_of(config, data=data)
    report: dict[str, Any] = {"settings": [dataclasses.asdict(row) for row in settings.table()]}
    problems: list[DujiangError] = []
    warnings = look_at_disk(settings, report)
    try:
        asyncio.run(look_at_database(app, settings, report, problems, warnings))
    except DujiangError as problem:
        problems.append(problem)
    report["warnings"] = warnings
    report["problems"] = [{"code": p.code, "what": p.detail, "cure": p.hint} for p in problems]
    if as_json:
        say_json(report)
    else:
        say_report(report)
    return exit_code_of(problems[0]) if problems else DONE


def look_at_disk(settings: "Settings", report: dict[str, Any]) -> list[str]:
    """Free space and kind of the file system that holds the data folder; the warnings."""
    place = settings.data
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    kind = file_system_of(place)
    report["disk"] = {"folder": str(settings.data), "free_bytes": free_bytes, "file_system": kind}
    warnings = []
    if free_bytes < FREE_LEAST_BYTES:
        warnings.append(f"only {free_bytes // 2**20} MiB are free in {settings.data}; less than 1 GiB is soon full")
    if settings.database.startswith("sqlite:") and kind.startswith(REMOTE_FILE_SYSTEMS):
        warnings.append(f"{settings.data} is on {kind}: the embedded store needs a local disk to keep its promises")
    return warnings


def file_system_of(place: Path) -> str:
    """The type of the file system, as the operating system calls it; `unknown` where it does not say."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    holding = [(len(words[1]), words[2]) for words in mounts if place.is_relative_to(words[1].replace("\\040", " "))]
    return max(holding)[1] if holding else "unknown"


async def look_at_database(
    app: str, settings: "Settings", report: dict[str, Any], problems: list[DujiangError], warnings: list[str]
) -> None:
    """Open the database and read back what it says about itself."""
    from dujiang.app import Runtime  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415
    from dujiang.data.database import StoreInUse  # noqa: PLC0415
    from dujiang.settings import file_of  # noqa: PLC0415

    runtime = Runtime(load_app(app, folder=Path.cwd()), settings)
    report["capabilities"] = dataclasses.asdict(runtime.database.capabilities)
    path = file_of("database", settings.database)
    if path is not None and not path.exists():
        report["schema"] = {"state": "empty", "names": []}
        return  # To look must not make a store.
    await look_at_servers(runtime, report, warnings)
    await look_at_cache(runtime, report, warnings)
    try:
        await runtime.database.start()
    except StoreInUse as owner:
        # No problem: it is what a running system looks like from beside it.
        report["owner"] = {"pid": owner.pid, "path": owner.path}
        return
    try:
        report["durability"] = await runtime.database.durability()
        schema = await runtime.schema.status()
        report["schema"] = dataclasses.asdict(schema)
        if schema.state != "empty":
            report["processes"] = await living(runtime)
        if problem := schema.problem(runtime.database.url):
            problems.append(problem)
        elif schema.state in ("current", "newer"):
            await look_at_contracts(runtime, problems, warnings)
        if schema.state == "newer":
            warnings.append(NEWER % ", ".join(schema.names))
        await compare_clocks(runtime, report, warnings)
    finally:
        await runtime.database.stop()


async def look_at_contracts(runtime: "Runtime", problems: list[DujiangError], warnings: list[str]) -> None:
    """Whether this version of the code can go on with what is stored, and what it would leave to others."""
    from dujiang.app.stored import check_store  # noqa: PLC0415
    from dujiang.messaging.newer import newer_stored  # noqa: PLC0415

    try:
        foreign = await check_store(runtime)
    except DujiangError as broken:
        problems.append(broken)
        return
    for name, waiting in foreign.items():
        warnings.append(
            f"{name} is a reaction of another version of the code; its work ({waiting} waiting) is left to that"
        )
    for name, (version, count) in (await newer_stored(runtime.database, runtime.composition.readables())).items():
        warnings.append(f"{count} deliveries of {name} in version {version} wait for a newer version of the code")


async def look_at_servers(runtime: "Runtime", report: dict[str, Any], warnings: list[str]) -> None:
    """What each of several servers behind the URL is; with one alone the start says it."""
    servers = await runtime.database.servers()
    if len(servers) < 2:
        return
    report["servers"] = {each["host"]: each["state"] for each in servers}
    primaries = [each["host"] for each in servers if each["state"].startswith("primary")]
    if len(primaries) > 1:
        warnings.append(f"{' and '.join(primaries)} both take writes: stop all but the one with the highest timeline")


async def look_at_cache(runtime: "Runtime", report: dict[str, Any], warnings: list[str]) -> None:
    """What the cache that processes share says of itself. One that is away is no problem: answers are loaded."""
    if runtime.caching.second is None:
        return
    try:
        found = await runtime.caching.second.cache.look()
    except DujiangError as away:
        warnings.append(f"no answers are shared: {away.detail}; {away.hint}")
        return
    report["cache"] = dict(found)
    if found.get("maxmemory") == "0":
        warnings.append("the shared cache has no limit of memory: set maxmemory, and maxmemory-policy allkeys-lru")
    elif found.get("maxmemory_policy") == "noeviction":
        warnings.append("the shared cache refuses what is new once it is full: set maxmemory-policy allkeys-lru")


async def living(runtime: "Runtime") -> list[dict[str, Any]]:
    """The processes that work on the database."""
    from dujiang.data.process import SAME_INSTANCE  # noqa: PLC0415

    rows = await runtime.database.read(lambda connection: connection.fetch(SAME_INSTANCE))
    return [{"lease": row[0], "info": row[1]} for row in rows]


async def compare_clocks(runtime: "Runtime", report: dict[str, Any], warnings: list[str]) -> None:
    """How far the database's clock is from ours; an embedded store has ours."""
    if not runtime.database.capabilities.many_writers:
        return
    await runtime.clock.follow(runtime.database)
    skew_ms = -runtime.clock.skew_us / 1000
    report["clock"] = {"skew_ms": round(skew_ms, 1)}
    if abs(skew_ms) > SKEW_MOST_MS:
        warnings.append(
            f"the database's clock differs by {skew_ms / 1000:.1f} s from this machine's; check time service"
        )


def say_report(report: dict[str, Any]) -> None:
    """Print the report for people."""
    say_table(("setting", "value", "from"), [list(row.values()) for row in report["settings"]])
    for part in ("capabilities", "servers", "cache", "durability", "schema", "disk", "clock", "owner"):
        if part in report:
            say()
            say_table((part, ""), [[name, shown(value)] for name, value in report[part].items()])
    if "processes" in report:
        say()
        say(f"{len(report['processes'])} living processes")
        for process in report["processes"]:
            say(f"  lease {process['lease']}  {printable(str(process['info']))}")
    say()
    for warning in report["warnings"]:
        say(f"warning: {printable(warning)}")
    for problem in report["problems"]:
        say(f"problem: {printable(problem['what'], keep=chr(10))} [{problem['code']}]")
        if problem["cure"]:
            say(f"cure:    {printable(problem['cure'], keep=chr(10))}")
    if not report["warnings"] and not report["problems"]:
        say("no problems")


def shown(value: Any) -> str:
    """A value of the report as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
