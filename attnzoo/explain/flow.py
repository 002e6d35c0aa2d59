"""Attention flow, Abnar and Zuidema, ACL 2020 (arXiv 2005.00928), section 3: a maximum flow."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

LARGEST = 2000
"""Largest number of nodes; the residual graph is a dense matrix."""


def attention_flow(
    maps: Sequence[Float[np.ndarray, "T T"]],
    *,
    rows: Sequence[int] | None = None,
    normalise: bool = False,
) -> Float[np.ndarray, "rows T"]:
    """Return the maximum flow from each token after the last layer to each input token.

    Nodes are the tokens of all layers; the edge from token i of layer l to token j of layer l-1 has
    capacity ``maps[l][i, j]``. Each entry is a separate maximum flow, by shortest augmenting paths
    (Edmonds and Karp 1972). For small graphs: 3 layers of 40 tokens take seconds.

    Args:
      maps: maps of one example, first layer to last, with heads fused and the residual added
        (``with_residual``).
      rows: tokens to start from; all if None. For a ViT [0].
      normalise: normalise rows of the result to sum 1.

    Raises:
      ValueError: maps that are not square, differ in shape, are negative, or have too many nodes.
    """
    stacked = np.stack([np.asarray(m, np.float64) for m in maps])
    L, T, S = stacked.shape
    if T != S or not (stacked >= 0).all():
        raise ValueError(f"maps of {T} x {S}; wanted square ones without negative weights")
    nodes = (L + 1) * T
    if nodes > LARGEST:
        raise ValueError(f"{L} layers of {T} tokens are {nodes} nodes; flow takes {LARGEST}")
    capacity = np.zeros((nodes, nodes))
    for layer, weights in enumerate(stacked):
        above, below = (layer + 1) * T, layer * T
        capacity[above : above + T, below : below + T] = weights
    starts = range(T) if rows is None else rows
    flows = np.array([[max_flow(capacity, L * T + i, j) for j in range(T)] for i in starts])
    return flows / flows.sum(axis=1, keepdims=True) if normalise else flows


def max_flow(capacity: Float[np.ndarray, "nodes nodes"], source: int, sink: int) -> float:
    """Return the maximum flow from ``source`` to ``sink`` with these edge capacities."""
    residual = capacity.copy()
    # Residual capacity from rounding does not count as an edge.
    least = 1e-12 * max(float(capacity.max()), 1e-300)
    total = 0.0
    while (path := _shortest_path(residual > least, source, sink)) is not None:
        froms, tos = path[:-1], path[1:]
        amount = float(residual[froms, tos].min())
        residual[froms, tos] -= amount
        residual[tos, froms] += amount
        total += amount
    return total


def _shortest_path(open_: Bool[np.ndarray, "nodes nodes"], source: int, sink: int) -> list | None:
    """Return the nodes of a shortest path of open edges from source to sink, or None."""
    parent = np.full(len(open_), -1)
    parent[source] = source
    frontier = np.array([source])
    while parent[sink] < 0:
        reached = open_[frontier]
        new = np.flatnonzero(reached.any(axis=0) & (parent < 0))
        if not len(new):
            return None
        parent[new] = frontier[reached[:, new].argmax(axis=0)]
        frontier = new
    path = [sink]
    while path[-1] != source:
        path.append(int(parent[path[-1]]))
    return path[::-1]
