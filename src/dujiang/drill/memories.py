"""Memories: every machine has its own memory, although all of them run in one process.

What a handler keeps in a module's global would be shared by all machines and survive every kill, as it never does in
production. So globals of the user's modules that change during a calm run are found, and from then on each incarnation
of a machine has its own copy: they are swapped when another machine goes on. A cache stays a cache; a counter that should
have been in the database now loses its count at a kill, and the user's own laws show it.
"""

from __future__ import annotations

import copy
import sys
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from dujiang.drill.escape import users_modules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dujiang.drill.machine import Machine

DEPTH_MAX = 4
ITEMS_MAX = 1000
PLAIN = (int, float, str, bytes, bool, type(None), list, dict, set, tuple)


# What a global held before any run in this process changed it: every world begins with that.
PRISTINE: dict[Place, tuple[ModuleType, Any]] = {}
# The same for objects that an app provides, by their place in memory, which they keep because they are kept here.
PROVIDED: dict[int, tuple[Any, dict[str, Any]]] = {}


@dataclass(frozen=True)
class Place:
    """A global: its module's name and its own."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def shape(value: Any, depth: int = 0) -> Any:
    """A value that is equal for equal contents, as far as plain data and the user's own objects go."""
    if isinstance(value, dict):
        items = list(value.items())[:ITEMS_MAX]
        return (
            (len(value), [(repr(key), shape(each, depth + 1)) for key, each in items])
            if depth < DEPTH_MAX
            else len(value)
        )
    if isinstance(value, (list, tuple)):
        return [shape(each, depth + 1) for each in list(value)[:ITEMS_MAX]] if depth < DEPTH_MAX else len(value)
    if isinstance(value, set):
        return sorted(map(repr, value))[:ITEMS_MAX]
    if isinstance(value, PLAIN):
        return repr(value)
    own = getattr(value, "__dict__", None)
    return shape(own, depth + 1) if isinstance(own, dict) and depth < DEPTH_MAX else id(value)


def keeps(value: Any, own: set[str]) -> bool:
    """Whether a global may hold state: plain data, or an object of a class that the user wrote."""
    if isinstance(value, (type, FunctionType, ModuleType)):
        return False
    return isinstance(value, PLAIN) or type(value).__module__ in own


def pristine(place: Place) -> Any:
    """What a global held at first."""
    module, found = sys.modules[place.module], PRISTINE.get(place)
    if found is None or found[0] is not module:
        found = PRISTINE[place] = (module, copy.deepcopy(vars(module)[place.name]))
    return found[1]


def restore(places: Iterable[Place]) -> None:
    """Give globals back what they held at first, in place where others may know the object by another name."""
    for place in places:
        module = vars(sys.modules[place.module])
        with suppress(Exception):
            before, now = copy.deepcopy(pristine(place)), module[place.name]
            if isinstance(now, (dict, list, set)):
                now.clear()
                (now.extend if isinstance(now, list) else now.update)(before)
            elif hasattr(now, "__dict__"):
                vars(now).clear()
                vars(now).update(vars(before))
            else:
                module[place.name] = before


def restore_provided(things: Iterable[Any]) -> None:
    """Give the user's own objects that an app provides back what they held at first; all machines share them."""
    own = {module.__name__ for module in users_modules()}
    for thing in things:
        if type(thing).__module__ in own and hasattr(thing, "__dict__"):
            with suppress(Exception):
                _, before = PROVIDED.setdefault(id(thing), (thing, copy.deepcopy(vars(thing))))
                held = copy.deepcopy(before)
                vars(thing).clear()
                vars(thing).update(held)


class Memories:
    """The memories of all machines of a world."""

    def __init__(self) -> None:
        modules = users_modules()
        own = {module.__name__ for module in modules}
        self._modules = {module.__name__: module for module in modules}
        self._before: dict[Place, Any] = {}
        self._pristine: dict[Place, Any] = {}
        for module in modules:
            for name, value in list(vars(module).items()):
                if not name.startswith("__") and keeps(value, own):
                    self._before[Place(module.__name__, name)] = shape(value)
        self._own: dict[Place, Any] = {}
        self.places: tuple[Place, ...] = ()
        self._last: Machine | None = None

    def __repr__(self) -> str:
        return f"<Memories of {', '.join(map(str, self.places)) or 'nothing'}>"

    def changed(self) -> list[Place]:
        """Globals that are not what they were."""
        return [
            place
            for place, before in self._before.items()
            if shape(vars(self._modules[place.module]).get(place.name)) != before
        ]

    def separate(self, places: Iterable[Place]) -> None:
        """Give every machine its own copy of these from now on; what they hold now is what each begins with."""
        for place in places:
            with suppress(Exception):  # A lock, a socket: what cannot be copied stays shared.
                self._pristine[place] = pristine(place)
                self._own[place] = vars(self._modules[place.module])[place.name]
        self.places = tuple(self._pristine)

    def leave(self) -> None:
        """Nobody goes on for now: the process's own globals are what they were before any machine had its own."""
        for place, own in self._own.items():
            module = vars(self._modules[place.module])
            if self._last is not None:
                self._last.memory[place] = module.get(place.name)
            module[place.name] = own
        self._last = None

    def enter(self, machine: Machine) -> None:
        """This machine goes on: put its memory in place."""
        if machine is self._last:
            return
        if self._last is not None:
            for place in self.places:
                self._last.memory[place] = vars(self._modules[place.module]).get(place.name)
        for place in self.places:
            if place not in machine.memory:
                machine.memory[place] = copy.deepcopy(self._pristine[place])
            vars(self._modules[place.module])[place.name] = machine.memory[place]
        self._last = machine
