r"""Binding: the values of a statement's parameters, checked and put in the driver's order, by code written for it.

    UPDATE stock SET pending = pending + ?1 WHERE sku = ?2         plan: (given "n"), (given "sku")

    def bind(fixed, params):
        v0 = params['n']
        if not (v0.__class__ is int and -2147483648 <= v0 <= 2147483647):
            v0 = p0(v0)
        v1 = params['sku']
        if not (v1.__class__ is str and v1.isascii() and "\0" not in v1):
            v1 = p1(v1)
        return text, [v0, v1]

Each value has a rule (data/values.py), and most values keep it. A loop that calls a checking function for each of them
costs half as much again as one that does not check; the code above is faster than either, because it looks at ordinary
values without a call. What it cannot see at a glance (None, other types, letters beyond ASCII, a value that does not
fit) goes to the processor, which decides. The same is done by dataclasses and namedtuples of the standard library.

The text is made of numbers, of names through `repr`, and of the expressions in data/values.py; no value is part of it.
tests/unit/data/test_binding.py compares it with the plain loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Processor = Callable[[Any], Any] | None
    Binder = Callable[[Sequence[Any], Mapping[str, Any]], tuple[str, list[Any]]]

__all__ = ["EXTRACTED", "FIXED", "GIVEN", "binder"]

# Where the value of an argument comes from: the caller, the statement as it was built, its compiled form.
GIVEN, EXTRACTED, FIXED = range(3)

# A statement with more parameters has a list unfolded into it; its code would be long and hardly ever run twice.
WRITTEN_MAX: Final = 200


def binder(text: str, plan: Sequence[tuple[int, Any, Processor]]) -> Binder:
    """The function that binds by a plan.

    Args:
        text: The statement, given back with the arguments.
        plan: For each argument, in order: where its value comes from, which one, and what it goes through.

    Returns:
        A function of the values that the statement itself holds, in order and with holes, and of the given ones, that
        makes the text and the list of arguments. It raises KeyError for a value that was not given.
    """
    if len(plan) > WRITTEN_MAX:
        return looped(text, plan)
    space: dict[str, Any] = {"text": text}
    exec(written(plan, space), space)  # noqa: S102  (see the head of this module for what it is made of)
    return space["bind"]  # type: ignore[no-any-return]


def written(plan: Sequence[tuple[int, Any, Processor]], space: dict[str, Any]) -> str:
    """The text of the function; the processors that it calls are put into `space`."""
    lines, values = ["def bind(fixed, params):"], []
    for place, (source, name, processor) in enumerate(plan):
        value = f"v{place}"
        values.append(value)
        if source != GIVEN:
            lines.append(f"    {value} = fixed[{place}]")
            continue
        lines.append(f"    {value} = params[{str(name)!r}]")
        if processor is None:
            continue
        space[f"p{place}"] = processor
        quick = getattr(processor, "quick", "")
        if quick:
            lines.append(f"    if not ({quick.format(v=value)}):")
        lines.append(f"    {'    ' if quick else ''}{value} = p{place}({value})")
    lines.append(f"    return text, [{', '.join(values)}]")
    return "\n".join(lines)


def looped(text: str, plan: Sequence[tuple[int, Any, Processor]]) -> Binder:
    """The same as a loop."""
    moves = [(place, name, processor) for place, (source, name, processor) in enumerate(plan) if source == GIVEN]

    def bind(fixed: Sequence[Any], params: Mapping[str, Any]) -> tuple[str, list[Any]]:
        args = list(fixed)
        for place, name, processor in moves:
            value = params[name]
            args[place] = value if processor is None else processor(value)
        return text, args

    return bind
