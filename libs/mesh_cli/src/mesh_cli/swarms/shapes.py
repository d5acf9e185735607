"""Where the nodes of a picture stand: rings, stars, layers. Pure arithmetic."""

import math
from collections import deque
from collections.abc import Mapping, Sequence

__all__ = ["Point", "in_layers", "layers_of", "levels", "on_circle"]

Point = tuple[float, float]


def on_circle(nodes: Sequence[str], radius: float, *, center: str = "") -> dict[str, Point]:
    """Around the origin, the first at the top, clockwise; ``center`` stands in the middle."""
    around = [node for node in nodes if node != center]
    found: dict[str, Point] = {center: (0.0, 0.0)} if center else {}
    for index, node in enumerate(around):
        angle = 2 * math.pi * index / max(1, len(around)) - math.pi / 2
        found[node] = (radius * math.cos(angle), radius * math.sin(angle))
    return found


def in_layers(layers: Sequence[Sequence[str]], *, across: float, down: float) -> dict[str, Point]:
    """Layer below layer, each centred."""
    return {
        node: ((index - (len(layer) - 1) / 2) * across, depth * down)
        for depth, layer in enumerate(layers)
        for index, node in enumerate(layer)
    }


def layers_of(
    root: str, nodes: Sequence[str], adjacency: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Nodes by their distance from ``root``; those out of reach come last, in one layer."""
    depth = {root: 0}
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        for other in adjacency.get(node, ()):
            if other not in depth:
                depth[other] = depth[node] + 1
                waiting.append(other)
    beyond = max(depth.values()) + 1
    layers: dict[int, list[str]] = {}
    for node in nodes:
        layers.setdefault(depth.get(node, beyond), []).append(node)
    return [layers[index] for index in sorted(layers)]


def levels(before: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Level of each node of a graph: one more than the highest of those before it.

    Args:
        before: node → nodes that it waits for; those that are no keys count as not there. A
            cycle, which no plan has, ends at the number of nodes.
    """
    level = dict.fromkeys(before, 0)
    for _ in before:
        moved = False
        for node, waits in before.items():
            wanted = max((level[one] + 1 for one in waits if one in level), default=0)
            if wanted > level[node]:
                level[node] = wanted
                moved = True
        if not moved:
            break
    return level
