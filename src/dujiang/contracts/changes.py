"""Changes: what a new version of an app breaks, for whom, and how to cure it; and what it changes without breaking anything.

    what is written under          is read by                       unless
    an old version of an event     the new class                    a step leads from it: then the step is tried
    the new version of an event    a process of the old class       the version is higher: then it gives the event back
    an old client's request        the new route
    the new route's answer         an old client, who skips fields that it does not know

A public client is not asked before a deploy, and an old process runs beside the new one for as long as a deploy, or its
undoing, takes. So both directions count, and an added choice of an event breaks as a removed one does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dujiang.contracts.forms import written_of
from dujiang.contracts.inclusion import Misfit, misfits
from dujiang.contracts.samples import samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dujiang.contracts.snapshot import Snapshot

    # Tries to read a payload that was stored under a version: why it cannot be read, or nothing.
    Try = Callable[[str, int, Any], str]

__all__ = ["Change", "changes"]

STORED = "what version {version} stored cannot be read"
ROLLING = "a process of the old version cannot read what the new one publishes while both run, or after going back"
CLIENT = "clients that were written for the old form"


@dataclass(frozen=True)
class Change:
    """One difference between two snapshots.

    Attributes:
        breaks: Whether somebody can no longer read, call or continue something.
        subject: `event OrderPlaced`, `POST /api/v1/orders`, ...
        what: What changed.
        hurts: Whom, and why; or why nobody.
        cure: How to make it compatible; empty if nothing needs it.
    """

    breaks: bool
    subject: str
    what: str
    hurts: str
    cure: str = ""

    @property
    def line(self) -> str:
        """On one line, for people."""
        cure = f"; cure: {self.cure}" if self.cure else ""
        return f"{'BREAKS' if self.breaks else 'ok    '} {self.subject}: {self.what}; {self.hurts}{cure}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def changes(old: Snapshot, new: Snapshot, attempt: Try | None = None) -> list[Change]:
    """What is different, the breaking ones first.

    Args:
        old: The snapshot with which others work.
        new: What the code is now.
        attempt: Reads payloads with the new classes, through their steps; None = steps are trusted.
    """
    jobs = of_jobs(old.get("jobs", {}), new.get("jobs", {}))
    found = [*of_events(old, new, attempt), *of_names(old, new), *jobs, *of_routes(old["routes"], new["routes"])]
    return sorted(found, key=lambda each: not each.breaks)


def of_events(old: Snapshot, new: Snapshot, attempt: Try | None) -> Iterator[Change]:
    """The changes of events."""
    for name, entry in new["events"].items():
        subject = f"event {name}"
        latest = entry["versions"][str(entry["version"])]
        lost = misfits(writes(latest), latest["reads"])
        if lost:
            what = f"{told(lost[0])}"
            cure = "give the field one name for both directions"
            yield Change(breaks=True, subject=subject, what=what, hurts="it cannot be read by its own class", cure=cure)
        elif name not in old["events"]:
            yield Change(breaks=False, subject=subject, what="is new", hurts="nobody has read or stored it before")
        else:
            yield from of_event(name, old["events"][name], entry, attempt)
    for name in old["events"].keys() - new["events"].keys():
        yield gone(name, old, new)


def gone(name: str, old: Snapshot, new: Snapshot) -> Change:
    """An event that is no longer there."""
    takers = sorted(reaction for reaction, entry in old["reactions"].items() if entry["event"] == name)
    hurts = (
        f"what waits for {', '.join(takers)} is stranded" if takers else "reactions to it elsewhere hear nothing more"
    )
    forms = {str(entry["versions"]): each for each, entry in new["events"].items() if each not in old["events"]}
    twin = forms.get(str(old["events"][name]["versions"]))
    cure = f'keep the name: `class {twin or "NewName"}(Event, name="{name}")`'
    if twin is None:
        cure += "; or keep the class until nothing of it is stored and nobody reacts to it"
    return Change(breaks=True, subject=f"event {name}", what="is gone", hurts=hurts, cure=cure)


def of_event(name: str, old: dict[str, Any], new: dict[str, Any], attempt: Try | None) -> Iterator[Change]:
    """The changes of one event: of every version that may be stored, then of the newest one in the other direction."""
    subject, version, before = f"event {name}", new["version"], old["version"]
    if version < before:
        cure = f"version={before} or higher"
        hurts = "what the higher version published is given back for ever"
        yield Change(breaks=True, subject=subject, what=f"version {before} is {version} now", hurts=hurts, cure=cure)
        return
    latest = new["versions"][str(version)]
    lost: dict[Misfit, list[int]] = {}
    for number, form in sorted(old["versions"].items(), key=lambda each: int(each[0])):
        if any(int(number) <= step < version for step in new["steps"]):
            yield from of_step(name, int(number), form, attempt)
        else:
            for misfit in misfits(writes(form), latest["reads"]):
                lost.setdefault(misfit, []).append(int(number))
    beside = misfits(writes(latest), old["versions"][str(before)]["reads"]) if version == before else []
    for misfit in dict.fromkeys([*lost, *beside]):
        stored = lost.get(misfit, [])
        whom = [STORED.format(version=number) for number in stored] + ([ROLLING] if misfit in beside else [])
        cure = cure_of(name, misfit, stored, max(version, before + 1))
        yield Change(breaks=True, subject=subject, what=told(misfit), hurts="; ".join(whom), cure=cure)
    yield from of_key(subject, old["key"], new["key"])
    if not lost and not beside:
        yield from harmless(subject, old, new)


def of_key(subject: str, old: str | None, new: str | None) -> Iterator[Change]:
    """A change of the field that keeps the order."""
    if old == new:
        return
    if old is None:
        yield Change(
            breaks=False,
            subject=subject,
            what=f"{new} is its key now",
            hurts="what is stored has none and is not waited for",
        )
        return
    what = f"its key was {old} and is {new or 'nothing'}"
    hurts = "what waits under the old key and what comes under the new one are not handled in order"
    cure = f"keep `{old}: ... = key()`; or publish a new event, with reactions of their own"
    yield Change(breaks=True, subject=subject, what=what, hurts=hurts, cure=cure)


def of_step(name: str, version: int, form: dict[str, Any], attempt: Try | None) -> Iterator[Change]:
    """A version from which a step leads: the steps are tried with values that its schema allows."""
    if attempt is None:
        return
    tried = [attempt(name, version, value) for value in samples(writes(form))]
    lost = [why for why in tried if why]
    if tried and len(lost) == len(tried):
        cure = (
            f"`@{name}.upcast({version})` takes the JSON object of version {version} and returns that of the next one"
        )
        what = f"its steps from version {version} fail: {lost[0]}"
        hurts = STORED.format(version=version)
        yield Change(breaks=True, subject=f"event {name}", what=what, hurts=hurts, cure=cure)
    elif lost:
        what = f"its steps from version {version} fail for {len(lost)} of {len(tried)} made-up payloads: {lost[0]}"
        yield Change(breaks=False, subject=f"event {name}", what=what, hurts="see whether such a payload can be stored")


def harmless(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """What changed of an event that everybody reads as before."""
    before, version = old["version"], new["version"]
    if version > before:
        what, hurts = (
            f"version {version}",
            "what is stored is read; a process of the old version gives it back until a newer one takes it",
        )
        yield Change(breaks=False, subject=subject, what=what, hurts=hurts)
    elif old["versions"][str(before)] != new["versions"][str(version)]:
        yield Change(
            breaks=False, subject=subject, what=added(old, new), hurts="old and new read what the other writes"
        )


def added(old: dict[str, Any], new: dict[str, Any]) -> str:
    """In words, what is different between two forms of one version."""
    one, other = (each["versions"][str(each["version"])]["reads"].get("properties", {}) for each in (old, new))
    both = (("new field", other.keys() - one.keys()), ("without field", one.keys() - other.keys()))
    parts = [f"{word} {', '.join(sorted(names))}" for word, names in both if names]
    return "; ".join(parts) or "its form"


def cure_of(name: str, misfit: Misfit, stored: list[int], wanted: int) -> str:
    """How to cure a misfit of an event, of which these versions may be stored, by the version `wanted`."""
    raised = f"`class {name}(Event, version={wanted})`"
    if not stored:
        kept = "keep the field, or " if misfit.kind == "required" else ""
        return f"{kept}raise the version, {raised}: an old process then gives it back instead of burying it"
    default = "give it a default, or " if misfit.kind == "required" else ""
    steps = " and ".join(f"`@{name}.upcast({number})`" for number in stored)
    return f"{default}raise the version and say how the old form becomes the new one: {raised} and {steps}"


def of_names(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """The changes of names that are stored: reactions, and operations with their idempotency keys."""
    for name in sorted(old["reactions"].keys() - new["reactions"].keys()):
        cure = f'keep the name by `name=`; or `App(renamed={{"{name}": "new.name"}})`, None if it is gone on purpose'
        hurts = "its waiting work is stranded, and a start is refused"
        yield Change(breaks=True, subject=f"reaction {name}", what="is gone", hurts=hurts, cure=cure)
    for name, entry in new["reactions"].items():
        before = old["reactions"].get(name)
        subject = f"reaction {name}"
        if before is None:
            yield Change(
                breaks=False, subject=subject, what="is new", hurts="an older process leaves its work to newer ones"
            )
            continue
        if before["event"] != entry["event"]:
            what = f"took {before['event']} and takes {entry['event']}"
            kept = f'`class {entry["event"]}(Event, name="{before["event"]}")`'
            cure = f"keep the event's name: {kept}; or declare a second reaction"
            hurts = f"what waits of {before['event']} is stranded, and a start is refused while there is any"
            yield Change(breaks=True, subject=subject, what=what, hurts=hurts, cure=cure)
        if before["ordered"] != entry["ordered"]:
            what = "is ordered now" if entry["ordered"] else "is no longer ordered"
            yield Change(
                breaks=False, subject=subject, what=what, hurts="what waits already keeps the order it came with"
            )
    routed = {entry["operation"] for entry in old["routes"].values()}
    for name in sorted(set(old["writes"]) - set(new["writes"])):
        if name not in routed:
            hurts = "a retry with its idempotency key finds no stored answer"
            yield Change(
                breaks=True, subject=f"operation {name}", what="is gone", hurts=hurts, cure="keep the name by `name=`"
            )


def of_jobs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """The changes of jobs: of their names, and of the arguments that are stored until they run."""
    for name in sorted(old.keys() - new.keys()):
        cure = f'keep the name by `name=`; or `App(renamed={{"{name}": "new.name"}})`, None if it is gone on purpose'
        hurts = "its waiting work is stranded, and a start is refused"
        yield Change(breaks=True, subject=f"job {name}", what="is gone", hurts=hurts, cure=cure)
    for name, reads in new.items():
        subject = f"job {name}"
        if name not in old:
            yield Change(
                breaks=False, subject=subject, what="is new", hurts="an older process leaves its work to newer ones"
            )
            continue
        # An argument with a default may have been left out.
        stored = misfits({**written_of(old[name]), "required": old[name]["required"]}, reads)
        beside = misfits({**written_of(reads), "required": reads["required"]}, old[name])
        for misfit in dict.fromkeys([*stored, *beside]):
            whom = ["jobs that wait cannot be read"] * (misfit in stored) + [ROLLING] * (misfit in beside)
            cure = (
                "give it a default"
                if misfit.kind == "required" and misfit in stored
                else "declare a job of another name beside it"
            )
            yield Change(breaks=True, subject=subject, what=told(misfit), hurts="; ".join(whom), cure=cure)
        if old[name] != reads and not stored and not beside:
            yield Change(
                breaks=False, subject=subject, what="its arguments", hurts="old and new read what the other writes"
            )


def of_routes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """The changes of routes."""
    for route in sorted(old.keys() - new.keys()):
        cure = "keep the route: `aliases=` lets one operation have several"
        yield Change(breaks=True, subject=route, what="is gone", hurts=f"{CLIENT} get 404", cure=cure)
    for route, entry in new.items():
        if route not in old:
            yield Change(breaks=False, subject=route, what="is new", hurts="nobody has called it before")
            continue
        found = list(of_route(route, old[route], entry))
        yield from found
        if not found and old[route] != entry:
            hurts = "old requests are taken, and answers have all that they had"
            yield Change(breaks=False, subject=route, what="its form", hurts=hurts)


def of_route(route: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """The breaking changes of one route."""

    def broken(what: str, hurts: str, cure: str) -> Change:
        return Change(breaks=True, subject=route, what=what, hurts=hurts, cure=cure)

    if old["operation"] != new["operation"]:
        what = f"its operation was {old['operation']} and is {new['operation']}"
        short = old["operation"].partition(".")[2]
        hurts = "a retry with an Idempotency-Key across the deploy is done a second time"
        yield broken(what, hurts, f'keep the stored name: `name="{short}"`')
    for name, entry in new["parameters"].items():
        before = old["parameters"].get(name)
        if entry["required"] and not (before and before["required"]):
            yield broken(f"{name} is required now", f"{CLIENT} do not send it", "give it a default")
        for misfit in misfits(before["form"], entry["form"]) if before else ():
            yield broken(
                f"{name}: {told(misfit)}",
                f"{CLIENT} are refused with 422",
                "take what was taken, or add a second parameter",
            )
    yield from of_body(old.get("body"), new.get("body"), broken)
    for status, before in old["answers"].items():
        if status not in new["answers"]:
            instead = ", ".join(sorted(new["answers"].keys() - old["answers"].keys())) or "nothing"
            yield broken(f"answers {instead} instead of {status}", CLIENT, f"keep `status_code={status}`")
            continue
        after = new["answers"][status]
        if before is not None and after is None:
            yield broken(f"{status} has no body any more", f"{CLIENT} read it", "keep the answer's type")
        elif before is not None:
            for misfit in misfits(after, before, tolerant=True):
                yield broken(
                    f"answer {told(misfit)}",
                    f"{CLIENT} rely on the old one",
                    "keep the field as it is, and add another beside it",
                )
    for status in (
        sorted(new["answers"].keys() - old["answers"].keys()) if old["answers"].keys() <= new["answers"].keys() else ()
    ):
        yield broken(
            f"may also answer {status}",
            f"{CLIENT} expect {', '.join(old['answers'])}",
            "answer as before, or under a new route",
        )


def of_body(
    old: dict[str, Any] | None, new: dict[str, Any] | None, broken: Callable[[str, str, str], Change]
) -> Iterator[Change]:
    """The breaking changes of a request's body."""
    if new is None:
        return
    if old is None or (new["required"] and not old["required"]):
        if new["required"]:
            yield broken("a body is required now", f"{CLIENT} send none", "give it a default")
        return
    for misfit in misfits(old["form"], new["form"]):
        cure = "give it a default" if misfit.kind == "required" else "take what was taken, or add a second route"
        yield broken(f"body {told(misfit)}", f"{CLIENT} are refused with 422", cure)
    if opened(old["form"]) and not opened(new["form"]):
        hurts = f"{CLIENT} and send more are refused with 422"
        yield broken("body refuses unknown fields now", hurts, 'let the model ignore them: `extra="ignore"`')


def opened(form: Any) -> bool:
    """Whether unknown fields of a body are taken."""
    return isinstance(form, dict) and form.get("additionalProperties", True) is not False


def writes(form: dict[str, Any]) -> Any:
    """What is written under a version."""
    return form["writes"] if "writes" in form else written_of(form["reads"])


def told(misfit: Misfit) -> str:
    """A misfit in words."""
    return f"`{misfit.path}`: {misfit.why}" if misfit.path else misfit.why
