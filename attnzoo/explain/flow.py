"""Attention flow, Abnar and Zuidema, ACL 2020 (arXiv 2005.00928), section 3: a maximum flow."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

LARGEST = 2000
"""Nodes up to which flows are computed: the residual graph is a matrix of their square."""


def attention_flow(
    maps: Sequence[Float[np.ndarray, "T T"]],
    *,
    rows: Sequence[int] | None = None,
    normalise: bool = False,
) -> Float[np.ndarray, "rows T"]:
    """How much can flow from each token behind the last layer to each input token.

    Tokens of all layers are nodes; from token i of layer l to token j of layer l-1 leads an edge of
    capacity ``maps[l][i, j]``. Each entry is a maximum flow of its own, by shortest augmenting
    paths (Edmonds and Karp 1972). For small graphs: it takes seconds for 3 layers of 40 tokens.

    Args:
      maps: of one example, first layer to last, heads fused and the residual in
        (``with_residual``).
      rows: the tokens to start from; all if None. Of a ViT [0].
      normalise: rows of the result sum to 1.

    Raises:
      ValueError: maps that are not square and alike, negative, or too many.
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
    """The largest flow from ``source`` to ``sink`` through edges of these capacities."""
    residual = capacity.copy()
    # What is left of an edge after rounding is no edge.
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
    """Nodes from source to sink by the fewest edges that are open, or None."""
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
