"""Vision Transformer of Dosovitskiy et al., ICLR 2021 (arXiv 2010.11929), and its variants.

Tokens are the class token, the distillation token (DeiT, Touvron et al. 2021, arXiv 2012.12877),
registers (DINOv2, Darcet et al. 2024, arXiv 2309.16588), each if the config has it, and the patches
row by row. ``ViT.config.prefix`` is the number of tokens before the patches.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention import Site
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.multi_head import MultiHeadAttention
from attnzoo.attention.projection import LayerNorm, Projection, cast_like
from attnzoo.config.vit import ViTConfig
from attnzoo.layers.block import Block, Maps, build_block
from attnzoo.layers.dropout import dropout
from attnzoo.layers.feed_forward import FeedForward
from attnzoo.layers.patches import Grid, PatchEmbedding, resize_grid, sinusoidal_grid
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, dropout_key
from attnzoo.module import Module
from attnzoo.ops.rotary import GridRotary, patch_coordinates
from attnzoo.ops.wide_sums import broadcast_parameter


class ViT(Model):
    """Vision Transformer: patches, a pre-norm encoder, and a linear head that starts at 0.

    A call runs ``embed``, ``encode`` and ``classify``; explanations run them one by one.

    Args:
      num_classes: V; None: no head, and a call returns the head's input.
    """

    def __init__(self, config: ViTConfig, num_classes: int | None = None, *, rngs: nnx.Rngs):
        self.config, dim = config, config.dim
        norm = functools.partial(LayerNorm, eps=config.norm_eps)
        self.patches = PatchEmbedding(
            config.patch, config.channels, dim, use_bias=config.patch_bias, rngs=rngs
        )
        side = config.image_size // config.patch
        self.trained_grid: Grid = (side, side)
        distils = config.distillation != "none"
        leading = config.prefix - config.registers
        self.class_token = _table(leading - distils, dim, 0.0, rngs)
        self.distillation_token = _table(int(distils), dim, 0.0, rngs)
        self.registers = _table(config.registers, dim, 0.02, rngs)
        self.mask_token = _table(int(config.mask_token), dim, 0.02, rngs)
        # The class and distillation tokens have learned positions too, though they need none.
        places = side * side + leading if config.positions == "learned" else 0
        self.positions = _table(places, dim, 0.02, rngs)
        self.pre_norm = norm(dim, rngs=rngs) if config.pre_norm else None
        blocks = [_block(config, norm, rngs) for _ in range(config.layers)]
        self.encoder = Stack(
            blocks, scan=config.scan, remat=config.remat, branch_rate=config.branch_rate
        )
        self.norm = norm(dim, rngs=rngs)
        self.pool = AttentionPool(config, rngs=rngs) if config.pooling == "attention" else None
        width = 2 * dim if config.pooling == "class_mean" else dim
        before = config.head_hidden
        self.pre_head = Projection(width, dim, use_bias=True, rngs=rngs) if before else None
        self.head = _head(dim if before else width, num_classes, rngs)
        distilled = config.distillation == "head"
        self.distilled_head = _head(dim, num_classes, rngs) if distilled else None
        self.check_settings(attention_dropout="dropout", use_bias="bias")
        if config.positions == "rotary":
            self.check_settings(positions="grid_rotary")

    def __call__(
        self,
        images: Float[Array, "B h w C"],
        *,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return logits ``B V``; with ``capture`` also the requested maps "encoder/0/self", ...

        ``rngs`` (stream "dropout") switches dropout and stochastic depth on. With a distillation
        head the result is the mean of both heads. A distillation loss needs them apart:
        :meth:`class_logits`, :meth:`distilled_logits`.
        """
        states, maps = self.states(images, rngs=rngs, capture=capture)
        logits = self.classify(states)
        return (logits, maps) if capture else logits

    def features(self, images: Float[Array, "B h w C"]) -> Float[Array, "B T D"]:
        """Return all tokens' states after the last norm; patches start at ``config.prefix``."""
        return self.states(images)[0]

    def states(
        self,
        images: Float[Array, "B h w C"],
        *,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B T D"], Maps]:
        """Return the states of all tokens after the last norm, and the requested maps."""
        x, grid = self.embed(images, rngs=rngs), self.patches.grid(images)
        return self.encode(x, grid=grid, rngs=rngs, capture=capture)

    def embed(
        self,
        images: Float[Array, "B h w C"],
        *,
        masked: Bool[Array, "B P"] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B T D"]:
        """Embed patches with added positions, after the prefix tokens (equation 1).

        Where ``masked`` is True, the mask token replaces the patch.
        """
        config = self.config
        x, grid = self.patches(images), self.patches.grid(images)
        if masked is not None:
            if self.mask_token is None:
                raise ValueError("masked: the model has no mask token; wanted mask_token=true")
            x = jnp.where(masked[:, :, None], cast_like(self.mask_token, x)[None], x)
        leading = [one for one in (self.class_token, self.distillation_token) if one is not None]
        parts = [cast_like(token, x) for token in leading]
        if self.positions is not None:
            first, table = self._positions(grid, x)
            x = x + broadcast_parameter(table, x.shape)
            parts = [part + first[i : i + 1] for i, part in enumerate(parts)]
        elif config.positions == "sinusoidal":
            x = x + sinusoidal_grid(grid, config.dim).astype(x.dtype)[None]
        # Registers are added after the positions, since they have none.
        parts += [] if self.registers is None else [cast_like(self.registers, x)]
        wide = [broadcast_parameter(part, (x.shape[0], *part.shape)) for part in parts]
        x = jnp.concatenate([*wide, x], axis=1) if wide else x
        x = x if self.pre_norm is None else self.pre_norm(x)
        return dropout(x, config.dropout, dropout_key(rngs))

    def encode(
        self,
        x: Float[Array, "B T D"],
        *,
        grid: Grid | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> tuple[Float[Array, "B T D"], Maps]:
        """Apply the blocks and the last norm (equations 2 to 4).

        ``grid`` has the rows and columns of patches, for rotary positions; that of the training
        images if None.
        """
        shared: dict[str, Any] = {}
        if self.config.positions == "rotary":
            rows, columns = self.trained_grid if grid is None else grid
            places = patch_coordinates(rows, columns, self.config.prefix)
            shared["positions"] = jnp.asarray(places)
        x, maps = self.encoder(x, key=dropout_key(rngs), return_weights=capture, **shared)
        return self.norm(x), {f"encoder/{name}": m for name, m in maps.items()}

    def classify(self, states: Float[Array, "B T D"]) -> Float[Array, "B V"]:
        """Return the logits for the states after the last norm, or the head's input."""
        logits = self.class_logits(states)
        if self.distilled_head is None:
            return logits
        return (logits + self.distilled_logits(states)) / 2

    def class_logits(self, states: Float[Array, "B T D"]) -> Float[Array, "B V"]:
        """Return the logits of the class head, or the head's input without one."""
        pooled = self._pooled(states)
        if self.pre_head is not None:
            pooled = jnp.tanh(self.pre_head(pooled))
        return pooled if self.head is None else self.head(pooled)

    def distilled_logits(self, states: Float[Array, "B T D"]) -> Float[Array, "B V"]:
        """Return the logits of the distillation head (Touvron et al. 2021, section 4)."""
        if self.distilled_head is None:
            raise ValueError(
                f"distillation={self.config.distillation!r} and "
                f"{'no' if self.head is None else 'a'} head: no distilled logits"
            )
        return self.distilled_head(states[:, 1])

    def _positions(
        self, grid: Grid, x: Float[Array, "B P D"]
    ) -> tuple[Float[Array, "C D"], Float[Array, "P D"]]:
        """Return the positions of the prefix tokens and of the patches, for this grid."""
        assert self.positions is not None
        leading = self.config.prefix - self.config.registers
        table = self.positions[...]
        first, patches = table[:leading], table[leading:]
        if grid != self.trained_grid:
            square = patches.reshape(*self.trained_grid, -1)
            patches = resize_grid(square, grid, antialias=self.config.antialias)
            patches = patches.reshape(-1, table.shape[1])
        return first.astype(x.dtype), patches.astype(x.dtype)

    def _pooled(self, states: Float[Array, "B T D"]) -> Float[Array, "B F"]:
        patches = states[:, self.config.prefix :]
        match self.config.pooling:
            case "class":
                return states[:, 0]
            case "mean":
                return patches.mean(axis=1)
            case "class_mean":
                return jnp.concatenate([states[:, 0], patches.mean(axis=1)], axis=1)
            case _:
                assert self.pool is not None
                return self.pool(patches)


class AttentionPool(Module):
    """Attention pooling: a learned query reads all patches, followed by a feed-forward layer.

    Zhai et al. 2022 (arXiv 2106.04560), section 3.3; "MAP", after Lee et al. 2019.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        dim, heads = config.dim, config.attention.heads
        init = jax.nn.initializers.glorot_uniform()
        self.probe = nnx.Param(init(rngs.params(), (1, dim), jnp.float32))
        self.attention = MultiHeadAttention(dim, heads, use_bias=True, rngs=rngs)
        self.norm = LayerNorm(dim, eps=config.norm_eps, rngs=rngs)
        self.feed_forward = FeedForward(dim, config.hidden, config.activation, rngs=rngs)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B D"]:
        probe = jnp.broadcast_to(cast_like(self.probe, x)[None], (x.shape[0], 1, x.shape[2]))
        y = self.attention(probe, x)
        return (y + self.feed_forward(self.norm(y)))[:, 0]


def _block(config: ViTConfig, norm: Any, rngs: nnx.Rngs) -> Block:
    side = config.image_size // config.patch
    site = Site.of_itself(
        config.dim,
        max_length=side * side + config.prefix,
        use_bias=config.use_bias,
        out_bias=True,
        rotary=GridRotary(config.rotary_base) if config.positions == "rotary" else None,
        norm_eps=config.norm_eps,
        dropout=config.attention_dropout,
    )
    return build_block(
        config,
        config.attention,
        site,
        LayerNorm,
        gated=config.gated,
        hidden_dropout=config.activation_dropout,
        layer_scale=config.layer_scale,
        rngs=rngs,
    )


def _head(width: int, num_classes: int | None, rngs: nnx.Rngs) -> Projection | None:
    if num_classes is None:
        return None
    zeros = jax.nn.initializers.zeros
    return Projection(width, num_classes, use_bias=True, kernel_init=zeros, rngs=rngs)


def _table(rows: int, dim: int, deviation: float, rngs: nnx.Rngs) -> nnx.Param | None:
    if rows == 0:
        return None
    return nnx.Param(deviation * jax.random.normal(rngs.params(), (rows, dim), jnp.float32))
