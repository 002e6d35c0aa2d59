"""Stack of blocks: unrolled or scanned, with or without rematerialisation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnzoo.attention.contract import ReturnWeights
from attnzoo.config.fields import Remat
from attnzoo.layers.block import Block, Maps
from attnzoo.module import Module
from attnzoo.ops.sharded import constrain

POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


class Stack(Module):
    """Sequence of blocks, applied one after another.

    Args:
      scan: hold the parameters of all blocks stacked along a first axis and loop over it, so that
        compilation time does not grow with the number of blocks. The blocks must be alike.
      remat: activations that the backward pass recomputes: none; all within a block ("full"); all
        but the products with weights, which are kept ("dots") or kept in host memory ("offload").
      branch_rate: stochastic depth of the last block; the rate grows linearly from 0 at the first.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        scan: bool = False,
        remat: Remat = "none",
        branch_rate: float = 0.0,
    ):
        self.depth, self.scan, self.remat, self.branch_rate = len(blocks), scan, remat, branch_rate
        for depth, block in enumerate(blocks):
            block.set_depth(depth)
        self.blocks: Any = _stacked(blocks) if scan else nnx.List(blocks)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        key: Key[Array, ""] | None = None,
        return_weights: ReturnWeights = False,
        **shared: Any,
    ) -> tuple[Float[Array, "B T D"], Maps]:
        """Apply all blocks, each with ``shared``; maps are named "0/self", "0/cross", ..."""
        rates = [self.branch_rate * i / max(self.depth - 1, 1) for i in range(self.depth)]
        keys = None if key is None else jax.random.split(key, self.depth)

        def apply(graph: Any, state: Any, x: Array, key: Any, rate: Any) -> tuple[Array, Maps]:
            block = nnx.merge(graph, state)
            x = constrain(x)
            return block(x, key=key, branch_rate=rate, return_weights=return_weights, **shared)

        if self.scan:
            graph, state = nnx.split(self.blocks)
            body = self._rematerialised(functools.partial(apply, graph))
            xs = (state, keys, jnp.float32(rates) if self.branch_rate else None)

            def step(x: Array, layer: Any) -> tuple[Array, Maps]:
                state, key, rate = layer
                return body(state, x, key, 0.0 if rate is None else rate)

            x, stacked = jax.lax.scan(step, x, xs)
            layers = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(self.depth)]
        else:
            layers = []
            for i, block in enumerate(self.blocks):
                graph, state = nnx.split(block)
                body = self._rematerialised(functools.partial(apply, graph))
                x, maps = body(state, x, None if keys is None else keys[i], rates[i])
                layers.append(maps)
        return x, {f"{i}/{name}": m for i, maps in enumerate(layers) for name, m in maps.items()}

    def _rematerialised(self, body: Callable[..., Any]) -> Callable[..., Any]:
        if self.remat == "none":
            return body
        # The rate is 0.0 or an array; a Python float must stay one (``drop_path`` is then
        # skipped).
        return lambda state, x, key, rate: jax.checkpoint(
            lambda state, x, key: body(state, x, key, rate), policy=POLICIES[self.remat]
        )(state, x, key)

    def unrolled(self) -> "Stack":
        """Return the same blocks as separate modules, for decoding and reading weights."""
        if not self.scan:
            if len(set(map(id, self.blocks))) == self.depth:
                return self
            blocks = [nnx.merge(*nnx.split(block)) for block in self.blocks]
            return Stack(blocks, remat=self.remat, branch_rate=self.branch_rate)
        graph, state = nnx.split(self.blocks)
        blocks = [
            nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))
            for i in range(self.depth)
        ]
        return Stack(blocks, remat=self.remat, branch_rate=self.branch_rate)


def _stacked(blocks: Sequence[Block]) -> Block:
    """Return one block whose parameters are those of all blocks, stacked along a first axis."""
    graphs, states = zip(*(nnx.split(block) for block in blocks), strict=True)
    if any(graph != graphs[0] for graph in graphs):
        raise ValueError("scan=True wants blocks that are alike; these differ in more than weights")
    return nnx.merge(graphs[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
