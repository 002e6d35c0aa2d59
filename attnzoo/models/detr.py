"""DETR: detection as the prediction of a set, Carion et al. 2020 (arXiv 2005.12872), and variants.

``attnzoo.config.detection`` documents the settings. Boxes are (centre x, centre y, width, height)
in shares of the picture.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention import Site
from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.projection import LayerNorm, Projection, cast_like
from attnzoo.config.detection import DetrConfig
from attnzoo.layers.block import Block, build_block
from attnzoo.layers.embedding import sinusoidal_positions
from attnzoo.layers.patches import Grid
from attnzoo.layers.stack import Stack
from attnzoo.models.model import Model, dropout_key
from attnzoo.models.resnet import ResidualBlock, convolution, normalised
from attnzoo.module import Module
from attnzoo.ops.index_functions import Index, broadcast_index, index_function, setting
from attnzoo.ops.score_mods import Score, ScoreMod

SHORTEST_PERIODS = 100.0
"""Ratio of the longest to the shortest period of the position sines; the shortest is 2 pi cells.

The paper has 10,000 and the whole picture as the shortest period.
"""
START = 0.1
"""Width and height of a proposal before training."""
RARE = 0.01
"""Probability of each class before training with sigmoids (Lin et al. 2017, section 4.1)."""


class Predictions(NamedTuple):
    """Logits of the classes, the last one "no object" if a softmax follows, and boxes."""

    logits: Float[Array, "*batch V"]
    boxes: Float[Array, "*batch 4"]


class Detections(NamedTuple):
    """Predictions of every decoder block, the last one final, and of the cells of the encoder."""

    layers: Predictions
    """``L B Q``: blocks, pictures, queries."""
    proposals: Predictions | None
    """``B P``: pictures, cells; None if the encoder proposes nothing."""
    cells: Bool[Array, "B P"]
    """False at cells of the margin."""

    @property
    def last(self) -> Predictions:
        """Predictions of the last block, ``B Q``."""
        return Predictions(self.layers.logits[-1], self.layers.boxes[-1])


class Backbone(Module):
    """Residual network that halves height and width at its first convolution and at each stage.

    The blocks are those of ``attnzoo.models.resnet``, with batch norms: trained from scratch, they
    use the statistics of the batch; the paper freezes those of ImageNet.
    """

    def __init__(self, config: DetrConfig, *, rngs: nnx.Rngs):
        self.stem = convolution(config.channels, config.width, 2, rngs)
        self.stem_norm = nnx.BatchNorm(config.width, momentum=0.9, rngs=rngs)
        self.blocks, channels = nnx.List([]), config.width
        for stage in range(config.stages):
            for index in range(config.blocks):
                wide = config.width * 2**stage
                stride = 2 if index == 0 else 1
                self.blocks.append(ResidualBlock(channels, wide, stride, None, rngs=rngs))
                channels = wide
        self.out_channels = channels

    def __call__(
        self, images: Float[Array, "B h w C"], *, use_running_average: bool
    ) -> Float[Array, "B rows columns D"]:
        """Return the features of the last stage."""
        x = self.stem(images.astype(self.stem.kernel[...].dtype))
        x = jax.nn.relu(normalised(self.stem_norm, x, use_running_average))
        for block in self.blocks:
            x, _ = block(x, use_running_average=use_running_average)
        return x


class Perceptron(Module):
    """Linear layers with ReLU between them (Carion et al. 2020, section 3.2)."""

    def __init__(self, *widths: int, zero_last: bool = False, rngs: nnx.Rngs):
        def layer(number: int) -> Projection:
            last = zero_last and number == len(widths) - 2
            init = {"kernel_init": jax.nn.initializers.zeros} if last else {}
            sizes = widths[number], widths[number + 1]
            return Projection(*sizes, use_bias=True, **init, rngs=rngs)

        self.layers = nnx.List([layer(number) for number in range(len(widths) - 1)])

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        for layer in list(self.layers)[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class Heads(Module):
    """Class and box of a state."""

    def __init__(self, config: DetrConfig, num_classes: int, *, rngs: nnx.Rngs):
        self.moves, dim = config.queries != "learned", config.dim
        outputs = num_classes + (config.scores == "softmax")
        self.label = Projection(dim, outputs, use_bias=True, rngs=rngs)
        if config.scores == "sigmoid":
            assert self.label.bias is not None
            self.label.bias[...] += logit(jnp.float32(RARE))
        self.box = Perceptron(dim, dim, dim, 4, zero_last=self.moves, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B Q D"], reference: Float[Array, "B Q 4"] | None
    ) -> Predictions:
        """Return float32 logits, and boxes: moved from the reference, if there is one."""
        shift = self.box(x).astype(jnp.float32)
        start = 0.0 if reference is None else logit(reference)
        return Predictions(self.label(x).astype(jnp.float32), jax.nn.sigmoid(start + shift))


@index_function
class GaussianPrior(ScoreMod):
    """Logarithm of a Gaussian around the box of each query: -s d^2 / 2.

    d is the distance of a cell from the centre of the box in units of half the box's sides, which
    count as a cell at least; s is a factor of the head (Gao et al. 2021, arXiv 2101.07448, equation
    4, where the scale is predicted).
    """

    boxes: Float[Array, "B Q 4"]
    factors: Float[Array, " N"]
    grid: Grid = setting()

    def __call__(self, score: Score, b: Index, n: Index, q: Index, k: Index) -> Score:
        rows, columns = self.grid
        own = self.boxes[broadcast_index(b, self.boxes.shape[0]), q]
        far: Any = 0.0
        for axis, (place, length) in enumerate(((k % columns, columns), (k // columns, rows))):
            cell = (place.astype(jnp.float32) + 0.5) / length
            radius = jnp.maximum(own[..., 2 + axis] / 2, 1 / length)
            far = far + ((cell - own[..., axis]) / radius) ** 2
        return score - (self.factors[n] * far / 2).astype(score.dtype)


class Detr(Model):
    """Backbone, Transformer encoder over its cells, and queries that a decoder turns into boxes.

    Position embeddings are added to queries and keys of every attention, as in the paper
    (appendix A.3). Every decoder block predicts, with shared heads (section 3.2).
    """

    def __init__(self, config: DetrConfig, num_classes: int, *, rngs: nnx.Rngs):
        self.config, dim, Q = config, config.dim, config.num_queries
        self.backbone = Backbone(config, rngs=rngs)
        self.project = Projection(self.backbone.out_channels, dim, use_bias=True, rngs=rngs)
        block = functools.partial(_block, config, rngs=rngs)
        self.encoder = Stack(
            [block(None) for _ in range(config.encoder_layers)], remat=config.remat
        )
        self.decoder = Stack([block(config.cross_attention) for _ in range(config.decoder_layers)])
        self.encoder_norm = _norm(config, rngs) if config.norm == "pre" else None
        self.decoder_norm = _norm(config, rngs)
        self.heads = Heads(config, num_classes, rngs=rngs)
        learned, proposed = config.queries == "learned", config.queries == "proposals"
        table = jax.random.normal(rngs.params(), (Q, dim), jnp.float32)
        self.queries = None if proposed else nnx.Param(table if learned else 0 * table)
        centres = jax.random.uniform(rngs.params(), (Q, 2), minval=0.05, maxval=0.95)
        boxes = logit(jnp.concatenate([centres, jnp.full_like(centres, START)], axis=1))
        self.anchors = nnx.Param(boxes) if config.queries == "anchors" else None
        self.proposal_heads = Heads(config, num_classes, rngs=rngs) if proposed else None
        self.content = Projection(dim, dim, use_bias=True, rngs=rngs) if proposed else None
        self.place = None if learned else Perceptron(2 * dim, dim, dim, rngs=rngs)
        cross, prior = self.decoder.blocks[0].cross_attention, config.prior == "gaussian"
        if prior and not cross.takes_score_mod:
            raise ValueError(
                f"prior=gaussian has no effect on {type(cross).__name__}, which has no scores of "
                "dot products; wanted cross_attention.kind=multi_head or prior=none"
            )
        self.factors = nnx.Param(jnp.zeros((cross.num_heads,), jnp.float32)) if prior else None
        self.check_settings(attention_dropout="dropout", use_bias="bias")

    def __call__(
        self,
        images: Float[Array, "B h w C"],
        *,
        extent: Float[Array, "B 2"] | None = None,
        rngs: nnx.Rngs | None = None,
        capture: ReturnWeights = False,
    ) -> Any:
        """Return the ``Detections``; with ``capture`` also the maps "decoder/0/cross", ...

        ``extent`` is the share of height and width that the picture in the middle takes; the margin
        around it is not attended to. ``rngs`` switches dropout on, and batch norms to the
        statistics of the batch. A map of a query has the cells row by row (``grid``).
        """
        config = self.config
        if images.ndim != 4 or images.shape[3] != config.channels:
            raise ValueError(
                f"images has shape {images.shape}; wanted B h w C with channels={config.channels}"
            )
        features = self.backbone(images, use_running_average=rngs is None)
        B, rows, columns, _ = features.shape
        if config.queries == "proposals" and rows * columns < config.num_queries:
            raise ValueError(
                f"num_queries={config.num_queries} of a picture with {rows} x {columns} cells; "
                "wanted as many cells at least: larger pictures or fewer stages"
            )
        centres = cell_centres((rows, columns))
        cells = jnp.ones((B, rows * columns), bool)
        if extent is not None:
            inside = 2 * abs(centres - 0.5)[None] < extent[:, None, ::-1]
            cells = jnp.all(inside, axis=-1)
        x = self.project(features.reshape(B, rows * columns, -1))
        places = self._sines(centres[None], (rows, columns)).astype(x.dtype)
        x, found = self.encoder(
            x, key=dropout_key(rngs), return_weights=capture, valid=cells, places=places
        )
        maps = {f"encoder/{name}": m for name, m in found.items()}
        x = x if self.encoder_norm is None else self.encoder_norm(x)
        memory = {"encoded": x, "encoded_valid": cells, "encoded_places": places}

        states, boxes, proposals = self._start(x, cells, centres)
        layers = []
        key = dropout_key(rngs)
        for number, block in enumerate(self.decoder.blocks):
            states, found = block(
                states,
                **memory,
                **self._guides(boxes, (rows, columns), states),
                key=None if key is None else jax.random.fold_in(key, number),
                return_weights=capture,
            )
            maps |= {f"decoder/{number}/{name}": m for name, m in found.items()}
            layers.append(self.heads(self.decoder_norm(states), boxes))
            if boxes is not None:
                boxes = jax.lax.stop_gradient(layers[-1].boxes)
        every = Predictions(*(jnp.stack(parts) for parts in zip(*layers, strict=True)))
        result = Detections(every, proposals, cells)
        return (result, maps) if capture else result

    def grid(self, images: Any) -> Grid:
        """Return the rows and columns of cells of images of this shape."""
        cell = self.config.cell
        return -(-images.shape[1] // cell), -(-images.shape[2] // cell)

    def _start(
        self, x: Float[Array, "B P D"], cells: Bool[Array, "B P"], centres: Float[Array, "P 2"]
    ) -> tuple[Float[Array, "B Q D"], Float[Array, "B Q 4"] | None, Predictions | None]:
        """Return the first states and boxes of the queries, and the encoder's proposals."""
        B, P, D = x.shape
        Q = self.config.num_queries
        if self.proposal_heads is not None:
            assert self.content is not None
            start = jnp.concatenate([centres, jnp.full_like(centres, START)], axis=1)
            start = jnp.broadcast_to(start[None], (B, P, 4))
            proposals = self.proposal_heads(x, start)
            best = proposals.logits
            if self.config.scores == "softmax":
                best = jax.nn.softmax(best)[..., :-1]
            score = jnp.where(cells, best.max(axis=-1), -jnp.inf)
            _, chosen = jax.lax.top_k(jax.lax.stop_gradient(score), Q)
            rows = functools.partial(jnp.take_along_axis, indices=chosen[..., None], axis=1)
            states = self.content(rows(x))
            return states, jax.lax.stop_gradient(rows(proposals.boxes)), proposals
        assert self.queries is not None
        if self.anchors is None:
            return jnp.zeros((B, Q, D), x.dtype), None, None
        boxes = jnp.broadcast_to(jax.nn.sigmoid(self.anchors[...])[None], (B, Q, 4))
        return jnp.broadcast_to(cast_like(self.queries, x)[None], (B, Q, D)), boxes, None

    def _guides(
        self, boxes: Float[Array, "B Q 4"] | None, grid: Grid, states: Float[Array, "B Q D"]
    ) -> dict[str, Any]:
        """Return the position embeddings of the queries, and the prior."""
        if boxes is None:
            assert self.queries is not None
            return {"places": cast_like(self.queries, states)[None]}
        assert self.place is not None
        sines = self._sines(boxes, grid).astype(states.dtype)
        guides: dict[str, Any] = {"places": self.place(sines)}
        if self.factors is not None:
            factors = jnp.exp(self.factors[...].astype(jnp.float32))
            guides["cross_score_mod"] = GaussianPrior(boxes, factors, grid)
        return guides

    def _sines(self, points: Float[Array, "B n c"], grid: Grid) -> Float[Array, "B n F"]:
        """Return sines of x, y and perhaps width and height in cells, E / 2 for each."""
        rows, columns = grid
        parts = [
            sinusoidal_positions(
                points[..., i] * (rows if i % 2 else columns),
                self.config.dim // 2,
                base=SHORTEST_PERIODS,
                halves=True,
            )
            for i in range(points.shape[-1])
        ]
        return jnp.concatenate(parts, axis=-1)


def cell_centres(grid: Grid) -> Float[Array, "P 2"]:
    """Return x and y of the centres of all cells, row by row, in shares of the picture."""
    rows, columns = grid
    y, x = jnp.meshgrid(
        (jnp.arange(rows, dtype=jnp.float32) + 0.5) / rows,
        (jnp.arange(columns, dtype=jnp.float32) + 0.5) / columns,
        indexing="ij",
    )
    return jnp.stack([x.ravel(), y.ravel()], axis=1)


def logit(p: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return the inverse of the sigmoid, for shares cut to 1e-4 .. 1 - 1e-4."""
    p = jnp.clip(p, 1e-4, 1 - 1e-4)
    return jnp.log(p) - jnp.log1p(-p)


def probabilities(
    logits: Float[Array, "*batch V"], config: DetrConfig
) -> Float[Array, "*batch classes"]:
    """Return the probability of each class, without "no object"."""
    if config.scores == "sigmoid":
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits)[..., :-1]


def _norm(config: DetrConfig, rngs: nnx.Rngs) -> LayerNorm:
    return LayerNorm(config.dim, eps=config.norm_eps, rngs=rngs)


def _block(config: DetrConfig, cross_attention: Any, *, rngs: nnx.Rngs) -> Block:
    site = Site.of_itself(config.dim, use_bias=config.use_bias, dropout=config.attention_dropout)
    return build_block(
        config,
        config.attention,
        site,
        LayerNorm,
        cross_attention=cross_attention,
        order=config.norm,
        hidden_dropout=config.activation_dropout,
        rngs=rngs,
    )
