"""Bipartite matching of least total cost: the assignment problem, under jit or on the host."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def match(
    cost: Float[Array, "*batch M Q"], counted: Bool[Array, "*batch M"]
) -> Int[Array, "*batch M"]:
    """Assign each counted row to a column of its own, with the least sum of costs.

    Exact, by shortest augmenting paths (Jonker and Volgenant 1987, as in Crouse 2016, "On
    implementing 2D rectangular assignment algorithms"), in plain JAX: it runs under jit, vmap and
    on any device. Rows that are not counted get -1. A cost that is not finite counts as a very
    large one. Costs have no gradient.

    Raises:
      ValueError: more rows than columns.
    """
    _check(cost, counted)
    *batch, M, Q = cost.shape
    large = jnp.asarray(1e9, cost.dtype)
    finite = jnp.clip(jnp.nan_to_num(jax.lax.stop_gradient(cost), nan=1e9), -large, large)
    found = jax.vmap(_assign)(finite.reshape(-1, M, Q), counted.reshape(-1, M))
    return found.reshape(*batch, M)


def match_on_host(
    cost: Float[Array, "*batch M Q"], counted: Bool[Array, "*batch M"]
) -> Int[Array, "*batch M"]:
    """Return an assignment as ``match`` does, computed by SciPy on the host in a callback."""
    _check(cost, counted)
    shape = jax.ShapeDtypeStruct(counted.shape, jnp.int32)
    return jax.pure_callback(_with_scipy, shape, jax.lax.stop_gradient(cost), counted)


def _with_scipy(cost: Any, counted: Any) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    cost = np.nan_to_num(np.asarray(cost), nan=1e9, posinf=1e9, neginf=-1e9)
    counted = np.asarray(counted)
    found = np.full(counted.shape, -1, np.int32)
    for place in np.ndindex(counted.shape[:-1]):
        rows = np.flatnonzero(counted[place])
        chosen, columns = linear_sum_assignment(cost[place][rows])
        found[place][rows[chosen]] = columns
    return found


def _check(cost: Float[Array, "*batch M Q"], counted: Bool[Array, "*batch M"]) -> None:
    M, Q = cost.shape[-2:]
    if M > Q:
        raise ValueError(f"cost has {M} rows and {Q} columns; wanted a column for each row")


class _Matching(NamedTuple):
    """Row of each column (-1: none), and the dual variables of rows and columns."""

    row: Int[Array, " Q"]
    u: Float[Array, " M"]
    v: Float[Array, " Q"]


class _Path(NamedTuple):
    """Shortest paths from a row to the columns, as far as they are known."""

    at: Int[Array, ""]
    """Row at the end of the path that is extended; -1: a free column was reached."""
    end: Int[Array, ""]
    length: Float[Array, ""]
    shortest: Float[Array, " Q"]
    before: Int[Array, " Q"]
    """Row before each column."""
    visited: Bool[Array, " Q"]


def _assign(cost: Float[Array, "M Q"], counted: Bool[Array, " M"]) -> Int[Array, " M"]:
    M, Q = cost.shape
    nobody = jnp.full((Q,), -1, jnp.int32)

    def extend(matching: _Matching, path: _Path) -> _Path:
        through = path.length + cost[path.at] - matching.u[path.at] - matching.v
        shorter = ~path.visited & (through < path.shortest)
        shortest = jnp.where(shorter, through, path.shortest)
        before = jnp.where(shorter, path.at, path.before)
        end = jnp.argmin(jnp.where(path.visited, jnp.inf, shortest)).astype(jnp.int32)
        visited = path.visited.at[end].set(True)
        return _Path(matching.row[end], end, shortest[end], shortest, before, visited)

    def add(row: Int[Array, ""], matching: _Matching) -> _Matching:
        start = jnp.where(counted[row], row, -1)
        unknown = jnp.full((Q,), jnp.inf, cost.dtype)
        path = _Path(start, jnp.int32(-1), jnp.zeros((), cost.dtype), unknown, nobody, nobody > 0)
        path = jax.lax.while_loop(
            lambda path: path.at >= 0, lambda path: extend(matching, path), path
        )
        # Rows of visited columns, and the new row, have their potentials raised.
        slack = jnp.where(path.visited, path.length - path.shortest, 0)
        owner = jnp.where(path.visited & (matching.row >= 0), matching.row, M)
        u = matching.u.at[owner].add(slack, mode="drop").at[row].add(path.length)

        def turn(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            end, owners, columns = state
            mine = path.before[end]
            return columns[mine], owners.at[end].set(mine), columns.at[mine].set(end)

        columns = _columns(matching.row, M)
        _, owners, _ = jax.lax.while_loop(
            lambda state: state[0] >= 0, turn, (path.end, matching.row, columns)
        )
        return _Matching(owners, u, matching.v - slack)

    zeros = jnp.zeros((M,), cost.dtype), jnp.zeros((Q,), cost.dtype)
    done = jax.lax.fori_loop(0, M, add, _Matching(nobody, *zeros))
    return _columns(done.row, M)


def _columns(row: Int[Array, " Q"], M: int) -> Int[Array, " M"]:
    """Return the column of each row, -1 for a row without one."""
    places = jnp.where(row < 0, M, row)
    columns = jnp.full((M,), -1, jnp.int32)
    return columns.at[places].set(jnp.arange(row.size, dtype=jnp.int32), mode="drop")
