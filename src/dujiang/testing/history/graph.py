"""Graph: strongly connected components (Tarjan) and shortest ways, for graphs of a hundred thousand nodes.

Both are written with a stack of their own: a history's graph is as deep as the history is long, and Python's is not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

Graph = dict[int, set[int]]


def components(graph: Mapping[int, Collection[int]]) -> list[list[int]]:
    """The strongly connected components with more than one node. O(nodes + edges)."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    found: list[list[int]] = []
    for root in graph:
        if root in number:
            continue
        way: list[tuple[int, Iterator[int]]] = [(root, iter(graph[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        while way:
            node, following = way[-1]
            for other in following:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    way.append((other, iter(graph.get(other, ()))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], number[other])
            else:
                way.pop()
                if way:
                    low[way[-1][0]] = min(low[way[-1][0]], low[node])
                if low[node] == number[node]:
                    members = popped(stack, node)
                    on_stack.difference_update(members)
                    if len(members) > 1:
                        found.append(members)
    return found


def popped(stack: list[int], node: int) -> list[int]:
    """What lies on the stack from `node` on, taken off."""
    members = [stack.pop()]
    while members[-1] != node:
        members.append(stack.pop())
    return members


def shortest(graph: Mapping[int, Collection[int]], start: int, goal: int, within: Collection[int]) -> list[int]:
    """The shortest way from `start` to `goal` through nodes of `within`, both ends included; empty if there is none."""
    came: dict[int, int] = {start: start}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        if node == goal:
            way = [node]
            while way[-1] != start:
                way.append(came[way[-1]])
            return way[::-1]
        for other in graph.get(node, ()):
            if other in within and other not in came:
                came[other] = node
                waiting.append(other)
    return []
