"""Snapshot: what an app promises, as a file that is committed, compared and reviewed.

    events      by name: the present version, the key, the versions from which a step leads, and for each version that
                was ever written down the schema of what it takes (`reads`) and, where that says less, of what is written
    reactions   by name: the event, and whether it is ordered
    jobs        by name: the schema of the arguments, which are stored until the job runs
    writes      the names of operations; stored idempotency keys belong to them
    routes      by method and path: parameters, body, answers by status

Which events belong to an app: those to which it reacts, and those that the modules of its handlers name. A write does not
declare what it publishes; but what it publishes it must have imported.

Versions stay in the file when the code goes on to the next one: what is stored of them must still be read. Who knows that
nothing of an old version is stored any more takes its entry out of the file.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from dujiang.app.composition import composed
from dujiang.contracts.forms import event_forms, form_of, plain, written_of
from dujiang.contracts.inclusion import definitions
from dujiang.gateway.openapi import OPERATIONS
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.message import Event
from dujiang.react import Reaction

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.app import App
    from dujiang.gateway.routes import RouteSpec

__all__ = [
    "FORMAT",
    "ContractsDamaged",
    "ContractsMissing",
    "Snapshot",
    "events_of",
    "joined",
    "read",
    "snapshot_of",
    "text_of",
]

# The snapshot as its file holds it.
Snapshot = dict[str, Any]

FORMAT = 1
PARTS = ("events", "reactions", "writes", "routes")
FAILURES_FROM = 400
REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')


@dataclass(eq=False, kw_only=True)
class ContractsMissing(DujiangError):
    """There is no snapshot of the contracts to compare with."""

    code = "contracts_missing"
    move = "fix"
    says = "there is no {path}"
    cure = "write it with `dujiang contracts --write`, look at it and commit it"

    path: str


@dataclass(eq=False, kw_only=True)
class ContractsDamaged(DujiangError):
    """The file of contracts is none that this version can read."""

    code = "contracts_damaged"
    move = "fix"
    says = "{path} is no snapshot of contracts: {why}"
    cure = "take it from the version control again, or write a new one with `dujiang contracts --write`"

    path: str
    why: str


def snapshot_of(app: App) -> Snapshot:
    """The contracts of an app as its code is now."""
    verbs = app.verbs()
    reactions = {verb.name: (verb.event, verb.ordered) for verb in verbs if isinstance(verb, Reaction)}
    reactions |= {name: (event, False) for saga in composed(app).sagas() for name, event in saga.reactions().items()}
    return {
        "format": FORMAT,
        "events": {name: event_entry(event) for name, event in sorted(events_of(app).items())},
        "reactions": {
            name: {"event": event.event_name, "ordered": ordered}
            for name, (event, ordered) in sorted(reactions.items())
        },
        "jobs": {
            job.name: plain(job_arguments(app, job)) for job in sorted(composed(app).jobs(), key=lambda each: each.name)
        },
        "writes": sorted(verb.name for verb in verbs if verb.kind == "write"),
        "routes": dict(sorted(routes_of(app).items())),
    }


def job_arguments(app: App, job: Any) -> Any:
    """The schema of what is stored of a job: one object with a member for each parameter that the app does not provide."""
    injected = composed(app).provided(job)
    kept = {name: each for name, each in job.handler.parameters.items() if name not in injected}
    forms = {name: form_of(hint, "validation") for name, (hint, _) in kept.items()}
    shared = {name: form for each in forms.values() for name, form in definitions(each).items()}
    found = {
        "type": "object",
        "properties": {name: {word: v for word, v in form.items() if word != "$defs"} for name, form in forms.items()},
        "required": sorted(name for name, (_, default) in kept.items() if default is Parameter.empty),
    }
    return {**found, "$defs": shared} if shared else found


def events_of(app: App) -> dict[str, type[Event]]:
    """The events of an app by their stored names; of several classes of one name the newest, one with a reaction first."""
    found: dict[str, type[Event]] = {}
    taken = [verb.event for verb in app.verbs() if isinstance(verb, Reaction)]
    taken += [event for saga in composed(app).sagas() for event in saga.reactions().values()]
    for event in [*taken, *sorted(named_by(app), key=lambda each: -each.event_version)]:
        found.setdefault(event.event_name, event)
    return found


def named_by(app: App) -> set[type[Event]]:
    """The events that the modules of an app's handlers name."""
    modules = {verb.function.__module__ for verb in app.verbs()}
    values = [value for name in modules for value in vars(sys.modules[name]).values()] if modules else []
    return {value for value in values if isinstance(value, type) and issubclass(value, Event) and value is not Event}


def event_entry(event: type[Event]) -> dict[str, Any]:
    """What the file says of an event."""
    reads, writes = event_forms(event)
    form: dict[str, Any] = {"reads": reads}
    if writes != written_of(reads):
        form["writes"] = writes
    entry = {"version": event.event_version, "key": event.key_field, "steps": sorted(event.upcasters)}
    return {**entry, "versions": {str(event.event_version): form}}


def routes_of(app: App) -> dict[str, Any]:
    """What clients see of an app, by method and path."""
    composition = composed(app)
    document = composition.fastapi.openapi() if composition.routes else {}
    shared = document.get("components", {}).get("schemas", {})
    found = {}
    for route in composition.routes:
        spec = route.spec
        told = document.get("paths", {}).get(route.path_format, {}).get(spec.method.lower())
        if told is not None and not spec.path.startswith(OPERATIONS):
            found[f"{spec.method} {spec.path}"] = route_entry(spec, told, shared)
    return found


def route_entry(spec: RouteSpec, told: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """What the file says of a route; `told` is what its OpenAPI document says, `shared` to what that refers."""
    parameters = {
        f"{each['in']} {each['name']}": {
            "required": each.get("required", False),
            "form": plain(whole(each.get("schema", {}), shared)),
        }
        for each in told.get("parameters", ())
    }
    entry: dict[str, Any] = {"operation": spec.verb.name, "parameters": dict(sorted(parameters.items()))}
    if "requestBody" in told:
        form = {} if spec.body_type is None else form_of(spec.body_type, "validation")
        entry["body"] = {"required": told["requestBody"].get("required", False), "form": form}
    answer = {} if spec.answer_type is None else form_of(spec.answer_type, "serialization")
    statuses = [status for status in told.get("responses", {}) if status.isdigit() and int(status) < FAILURES_FROM]
    entry["answers"] = {
        status: answer if "content" in told["responses"][status] else None for status in sorted(statuses)
    }
    return entry


def whole(schema: Any, shared: dict[str, Any]) -> Any:
    """A schema of an OpenAPI document with the definitions to which it refers."""
    needed: dict[str, Any] = {}
    left = REFERENCE.findall(json.dumps(schema))
    while left:
        name = left.pop()
        if name not in needed:
            needed[name] = shared[name]
            left += REFERENCE.findall(json.dumps(shared[name]))
    return {**schema, "$defs": needed} if needed else schema


def joined(old: Snapshot | None, new: Snapshot) -> Snapshot:
    """The new snapshot with the older versions of its events, of which something may still be stored."""
    events = {}
    for name, entry in new["events"].items():
        before = (old or {}).get("events", {}).get(name, {}).get("versions", {})
        kept = {version: form for version, form in before.items() if int(version) < entry["version"]}
        versions = {**kept, **entry["versions"]}
        events[name] = {**entry, "versions": dict(sorted(versions.items(), key=lambda each: int(each[0])))}
    return {**new, "events": events}


def text_of(snapshot: Snapshot) -> str:
    """The file's text; the same for equal contracts."""
    return json.dumps(snapshot, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Snapshot:
    """The snapshot of a file.

    Raises:
        ContractsMissing: There is none.
        ContractsDamaged: It is something else, or of a later format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ContractsMissing(path=str(path)) from None
    except (OSError, UnicodeDecodeError) as cause:
        raise ContractsDamaged(path=str(path), why=str(cause)) from cause
    return parsed(text, str(path))


def parsed(text: str, path: str) -> Snapshot:
    """The snapshot of a text. Raises ContractsDamaged, naming `path`."""
    try:
        found = json.loads(text)
    except ValueError as cause:
        raise ContractsDamaged(path=path, why=f"it is no JSON, {cause}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        told = found.get("format") if isinstance(found, dict) else None
        raise ContractsDamaged(path=path, why=f"its format is {told!r}, and this version reads {FORMAT}")
    missing = [part for part in PARTS if not isinstance(found.get(part), (dict, list))]
    if missing:
        raise ContractsDamaged(path=path, why=f"it has no {missing[0]}")
    return found
