"""Transformer block: self-attention, optional cross-attention, and a feed-forward layer."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnzoo.attention import Site, build_attention
from attnzoo.attention.cache import Kind
from attnzoo.attention.contract import Attention, Memory, ReturnWeights, RotaryPositions
from attnzoo.attention.projection import cast_like
from attnzoo.layers.dropout import drop_path, dropout
from attnzoo.layers.experts import Experts
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.layers.self_attention import SelfAttention
from attnzoo.module import Module
from attnzoo.ops.logits import ScoreFunction
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.positions import positions_in_text

Norm = Callable[..., nnx.Module]
Maps = dict[str, Any]


class BlockCache(NamedTuple):
    """Decoding state of a block: the self-attention cache and the past of its cross-attention."""

    own: Any
    past: Any


class Block(Module):
    """Transformer block: residual branches of attention and feed-forward layers.

    Vaswani et al. 2017, section 3.1. ``order="post"``: x <- norm(x + f(x)), as in the paper.
    ``order="pre"``: x <- x + f(norm(x)) (Xiong et al. 2020, arXiv 2002.04745), which needs one more
    norm after the last block.

    Args:
      cross_attention: the attention to another sequence, between the two other branches; None: no
        such branch.
      norm: constructor of a norm, called as ``norm(dim, rngs=rngs)``.
      dropout: dropout rate at the end of every branch.
      layer_scale: initial value of a learned vector that multiplies each branch (Touvron et al.
        2021, arXiv 2103.17239, equation 5); None: no such vector.
      branch_norms: apply a norm to the result of each branch too, x <- x + norm(f(norm(x))) (Gemma
        2, arXiv 2408.00118, section 2).
    """

    def __init__(
        self,
        dim: int,
        attention: SelfAttention,
        feed_forward: FeedForward | Experts,
        *,
        cross_attention: Attention | None = None,
        norm: Norm,
        order: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        layer_scale: float | None = None,
        branch_norms: bool = False,
        rngs: nnx.Rngs,
    ):
        self.dim, self.order, self.dropout = dim, order, dropout
        self.attention, self.attention_norm = attention, norm(dim, rngs=rngs)
        self.cross_attention = cross_attention
        self.cross_norm = None if cross_attention is None else norm(dim, rngs=rngs)
        self.feed_forward, self.feed_forward_norm = feed_forward, norm(dim, rngs=rngs)
        self.attention_branch_norm = norm(dim, rngs=rngs) if branch_norms else None
        self.feed_forward_branch_norm = norm(dim, rngs=rngs) if branch_norms else None
        scale = None if layer_scale is None else jnp.full((dim,), layer_scale, jnp.float32)
        self.attention_scale = None if scale is None else nnx.Param(scale)
        self.feed_forward_scale = None if scale is None else nnx.Param(scale)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        valid: Bool[Array, "B T"] | None = None,
        mask: MaskFunction | None = None,
        score_mod: ScoreFunction | None = None,
        positions: RotaryPositions | None = None,
        is_causal: bool | None = None,
        encoded: Float[Array, "B S D2"] | None = None,
        encoded_valid: Bool[Array, "B S"] | None = None,
        places: Float[Array, "#B T D"] | None = None,
        encoded_places: Float[Array, "#B S D2"] | None = None,
        cross_score_mod: ScoreFunction | None = None,
        key: Key[Array, ""] | None = None,
        branch_rate: float | Float[Array, ""] = 0.0,
        return_weights: ReturnWeights = False,
    ) -> tuple[Float[Array, "B T D"], Maps]:
        """Return the new states, and a dict of the requested attention maps, "self" and "cross".

        ``valid``, ``mask``, ``score_mod``, ``positions`` and ``is_causal`` are those of
        :class:`SelfAttention`. ``places`` and ``encoded_places`` are position embeddings, added to
        queries and keys of this block, not to values (Carion et al. 2020, arXiv 2005.12872,
        appendix A.3). ``cross_score_mod`` is the score modifier of the cross-attention.
        ``key`` switches dropout on; ``branch_rate`` is the rate of stochastic depth.
        """
        keys = [None] * 7 if key is None else list(jax.random.split(key, 7))
        maps: Maps = {}

        def attend(x: Array) -> Array:
            result = self.attention(
                x,
                valid=valid,
                mask=mask,
                score_mod=score_mod,
                positions=positions,
                is_causal=is_causal,
                places=places,
                dropout_key=keys[0],
                return_weights=return_weights,
            )
            return _keep(result, "self", maps, return_weights)

        def cross(x: Array) -> Array:
            assert self.cross_attention is not None
            memory = self.prepare_cross(encoded, encoded_valid, encoded_places)
            modified: dict[str, Any] = {}
            if cross_score_mod is not None:
                modified["score_mod"] = cross_score_mod
            result = self.cross_attention.attend(
                x if places is None else x + places,
                memory,
                return_weights=return_weights,
                dropout_key=keys[2],
                **modified,
            )
            return _keep(result, "cross", maps, return_weights)

        ends = functools.partial(self._end, keys=keys, branch_rate=branch_rate)
        feed = functools.partial(self.feed_forward, key=keys[1])
        return self._branches(x, attend, cross, feed, ends), maps

    def asking(self, x: Float[Array, "B T D"], **of_attention: Any) -> Float[Array, "B T D"]:
        """Return the states that the cross-attention asks with, without dropout.

        ``of_attention`` are arguments of :class:`SelfAttention`.
        """
        x = self._residual(
            x,
            lambda x: self.attention(x, **of_attention),
            self.attention_norm,
            self.attention_branch_norm,
            self.attention_scale,
            lambda y: y,
        )
        return self.cross_norm(x) if self.order == "pre" else x

    def set_depth(self, depth: int) -> None:
        """Tell the attentions of the block their layer in a stack, 0 for the first."""
        self.attention.mechanism.set_depth(depth)
        if self.cross_attention is not None:
            self.cross_attention.set_depth(depth)

    def prepare_cross(
        self,
        encoded: Float[Array, "B S D2"] | None,
        encoded_valid: Bool[Array, "B S"] | None,
        encoded_places: Float[Array, "#B S D2"] | None = None,
    ) -> Memory:
        """Prepare the memory for :meth:`decode`; key positions start at the first real token."""
        if self.cross_attention is None or encoded is None:
            wanted = "encoded, B S D2" if encoded is None else "a block with cross-attention"
            raise ValueError(f"there is nothing to attend to; wanted {wanted}")
        mask = None if encoded_valid is None else encoded_valid[:, None, None, :]
        positions = positions_in_text(encoded_valid)
        placed = (encoded,) if encoded_places is None else (encoded + encoded_places, encoded)
        return self.cross_attention.prepare(*placed, mask=mask, positions=positions)

    def empty_cache(
        self,
        batch: int,
        max_length: int,
        dtype: Any = jnp.float32,
        cache: Kind = "plain",
        memory: Memory | None = None,
    ) -> BlockCache:
        """Return an empty cache; ``memory`` is that of :meth:`prepare_cross`."""
        own = self.attention.empty_cache(batch, max_length, dtype, cache)
        if self.cross_attention is None or memory is None:
            return BlockCache(own, None)
        return BlockCache(own, self.cross_attention.empty_past(memory))

    def decode(
        self,
        x: Float[Array, "B T D"],
        cache: BlockCache,
        *,
        memory: Memory | None = None,
        visible: Bool[Array, "B L"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        score_mod: ScoreFunction | None = None,
        return_weights: ReturnWeights = False,
    ) -> tuple[Float[Array, "B T D"], BlockCache, Maps]:
        """Return the states of the next T positions, the updated cache, and the requested maps.

        ``memory`` is that of :meth:`prepare_cross`; ``visible`` is False at padding in the cache;
        ``positions`` are those in the text. A recurrent attention has no map "self".
        """
        maps: Maps = {}
        own, past = cache
        asked = False if self.attention.mechanism.is_recurrent else return_weights

        def attend(x: Array) -> Array:
            nonlocal own
            result, own = self.attention.decode(
                x,
                own,
                visible=visible,
                positions=positions,
                score_mod=score_mod,
                return_weights=asked,
            )
            return _keep(result, "self", maps, asked)

        def cross(x: Array) -> Array:
            nonlocal past
            assert self.cross_attention is not None
            assert memory is not None
            result, past = self.cross_attention.extend(
                x, memory, past, positions=positions, return_weights=return_weights
            )
            return _keep(result, "cross", maps, return_weights)

        x = self._branches(x, attend, cross, self.feed_forward, lambda _: lambda y: y)
        return x, BlockCache(own, past), maps

    def _branches(
        self, x: Float[Array, "B T D"], attend: Any, cross: Any, feed: Any, ends: Any
    ) -> Float[Array, "B T D"]:
        """Add the results of all branches, each after ``ends(number)``."""
        x = self._residual(
            x,
            attend,
            self.attention_norm,
            self.attention_branch_norm,
            self.attention_scale,
            ends(0),
        )
        if self.cross_attention is not None:
            x = self._residual(x, cross, self.cross_norm, None, None, ends(1))
        return self._residual(
            x,
            feed,
            self.feed_forward_norm,
            self.feed_forward_branch_norm,
            self.feed_forward_scale,
            ends(2),
        )

    def _residual(
        self,
        x: Float[Array, "B T D"],
        branch: Callable[[Array], Array],
        norm: Any,
        branch_norm: Any,
        scale: nnx.Param | None,
        end: Callable[[Array], Array],
    ) -> Float[Array, "B T D"]:
        y = branch(norm(x) if self.order == "pre" else x)
        y = y if branch_norm is None else branch_norm(y)
        y = y if scale is None else y * cast_like(scale, y)[None, None]
        y = x + end(y)
        return y if self.order == "pre" else norm(y)

    def _end(
        self, branch: int, *, keys: list[Any], branch_rate: float | Array
    ) -> Callable[[Array], Array]:
        """Return a function that applies dropout and stochastic depth at the end of a branch."""

        def end(y: Array) -> Array:
            y = dropout(y, self.dropout, keys[3 + branch])
            if isinstance(branch_rate, float) and branch_rate == 0.0:
                return y
            key = None if keys[6] is None else jax.random.fold_in(keys[6], branch)
            return drop_path(y, branch_rate, key)

        return end


def build_block(
    config: Any,
    attention: Any,
    site: Site,
    norm: Norm,
    *,
    cross_attention: Any = None,
    order: Literal["pre", "post"] = "pre",
    hidden: int | None = None,
    gated: bool = False,
    use_bias: bool = True,
    hidden_dropout: float = 0.0,
    layer_scale: float | None = None,
    branch_norms: bool = False,
    experts: Any = None,
    rngs: nnx.Rngs,
) -> Block:
    """Build a block of a model, with its attention modules from their configs and the site.

    ``config`` is the model's; the block uses ``hidden``, ``activation``, ``norm_eps`` and
    ``dropout``. ``hidden`` overrides the width of the feed-forward layer; ``use_bias`` and
    ``hidden_dropout`` are settings of that layer. ``layer_scale`` and ``branch_norms`` are those of
    :class:`Block`. ``experts``, an ``ExpertsConfig``, makes gated feed-forward layers out of one.
    """
    dim = site.query_dim
    mechanism = build_attention(attention, site, rngs=rngs)
    layer = functools.partial(FeedForward, gated=gated, use_bias=use_bias)
    if experts is not None:
        settings = {"count": experts.count, "chosen": experts.chosen}
        layer = functools.partial(Experts, **settings, balance_weight=experts.balance_weight)
    feed_forward = layer(
        dim,
        hidden or config.hidden,
        config.activation,
        dropout=hidden_dropout,
        kernel_init=site.kernel_init,
        out_init=site.out_init,
        rngs=rngs,
    )
    other = dataclasses.replace(site, is_self=False, is_causal=False, max_length=None)
    reads = None if cross_attention is None else build_attention(cross_attention, other, rngs=rngs)
    return Block(
        dim,
        SelfAttention(mechanism, is_causal=site.is_causal),
        feed_forward,
        cross_attention=reads,
        norm=functools.partial(norm, eps=config.norm_eps),
        order=order,
        dropout=config.dropout,
        layer_scale=layer_scale,
        branch_norms=branch_norms,
        rngs=rngs,
    )


def _keep(result: Any, name: str, maps: Maps, return_weights: ReturnWeights) -> Array:
    """Store the weights in the maps, if they are requested, and return the context."""
    if not return_weights:
        return result
    context, maps[name] = result
    return context
