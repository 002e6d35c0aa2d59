# Over 400 lines: a list, a few lines for the picture of each mechanism.
"""What the gallery draws: the weights of every mechanism, asked for through the public contract.

All see one sentence of eight words (gates: one image). Nothing is trained. Parameters are drawn
from seed 0. Where what is drawn says nothing, three things are done, each said in the page:

- query and key projections are the identity, so that a score is a similarity of words;
- what starts so small that all weights are alike is scaled up;
- the spatial gate, whose random window sees nothing, looks for brightness.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo import attention as zoo
from attnzoo import plotting
from attnzoo.attention.projection import Projection
from attnzoo.ops import masks, score_mods
from attnzoo.ops.linear import orthogonal_projection, random_features
from attnzoo.ops.normalisers import entmax15, sparsemax
from attnzoo.plotting import Figure, WeightPanel

SENTENCE = tuple("the grey cat saw the small black dog".split())
CLASSES = {"the": 0, "grey": 1, "small": 1, "black": 1, "cat": 2, "dog": 2, "saw": 3}
DIM = 16
CHANNELS = ("red", "green", "blue", "light", "saturation", "edge |", "edge —", "noise")
lecun = jax.nn.initializers.lecun_normal()


def sentence() -> Float[Array, "1 8 16"]:
    """Embeddings with visible structure: one half holds the word's class, the other the word.

    Each half has length sqrt(8), so that words of one class have scaled score 2.8 in a head of the
    first half, and others 0. The two "the" are equal, and so are cat and dog to three fifths.
    Both halves are turned by a fixed rotation: nothing depends on the axes.
    """
    vocabulary = list(CLASSES)
    words = np.eye(8)[: len(vocabulary)]
    cat, dog = words[vocabulary.index("cat")], words[vocabulary.index("dog")]
    words[vocabulary.index("dog")] = 0.6 * cat + 0.8 * dog
    rows = [
        np.concatenate([np.eye(8)[CLASSES[word]], words[vocabulary.index(word)]])
        for word in SENTENCE
    ]
    random = np.random.default_rng(0)
    turns = [np.linalg.qr(random.standard_normal((8, 8)))[0] for _ in range(2)]
    halves = [np.array(rows)[:, 8 * i : 8 * i + 8] @ turn for i, turn in enumerate(turns)]
    return jnp.asarray(np.sqrt(8) * np.concatenate(halves, axis=1)[None], jnp.float32)


def picture() -> Float[Array, "1 24 24 8"]:
    """A bright disc on a gradient, as eight channels of features; all lie in [0, 1]."""
    rows, columns = np.mgrid[0:24, 0:24] / 23
    disc = 1 / (1 + np.exp(60 * (np.hypot(rows - 0.4, columns - 0.62) - 0.2)))
    sky = 0.15 + 0.45 * rows
    red, green, blue = np.maximum(0.6 * sky, disc), np.maximum(sky, 0.8 * disc), sky
    light = (red + green + blue) / 3
    noise = np.random.default_rng(0).uniform(0, 0.3, size=light.shape)
    saturation = 1 - np.minimum(np.minimum(red, green), blue) / np.maximum(red, green)
    edges = [np.abs(np.gradient(light, axis=axis)) for axis in (1, 0)]
    edges = [edge / edge.max() for edge in edges]
    features = np.stack([red, green, blue, light, saturation, *edges, noise], axis=-1)
    return jnp.asarray(features[None], jnp.float32)


def identity(*projections: Projection) -> None:
    """Make projections pass on what they get: a score of such queries and keys is a similarity."""
    for projection in projections:
        rows, columns = projection.kernel.shape
        projection.kernel[...] = jnp.eye(rows, columns)


def scaled(factor: float | int, *parameters: nnx.Variable) -> None:
    """Multiply parameters that start so small that all weights are alike."""
    for parameter in parameters:
        parameter[...] = factor * parameter[...]


def seeded() -> nnx.Rngs:
    """Seed 0, anew for each mechanism: none depends on which were drawn before it."""
    return nnx.Rngs(0)


def matrix(
    title: str,
    weights: Float[Array, "B N T S"],
    head: int = 0,
    rows: Sequence[str] = SENTENCE,
    columns: Sequence[str] = SENTENCE,
    times: float | int = 1,
) -> WeightPanel:
    """One head's weights of the one sentence; where they are multiplied, the title says so."""
    title = title if times == 1 else f"{title}, times {times:g}"
    return WeightPanel(times * np.asarray(weights[0, head], float), rows, columns, title)


def read(module: Any, title: str, head: int = 0, **keywords: Any) -> WeightPanel:
    """The weights of the sentence that reads itself."""
    words = sentence()
    _, weights = module(words, words, return_weights=True, **keywords)
    return matrix(title, weights, head)


def heads(
    module: Any, titles: Sequence[str] = ("head 0", "head 1"), times: float | int = 1
) -> list[WeightPanel]:
    """The weights of the first heads."""
    words = sentence()
    _, weights = module(words, words, return_weights=True)
    return [matrix(title, weights, head, times=times) for head, title in enumerate(titles)]


def additive() -> list[WeightPanel]:
    module = zoo.AdditiveAttention(
        DIM, DIM, 32, kernel_init=lecun, score_init=jax.nn.initializers.normal(0.5), rngs=seeded()
    )
    return [read(module, "additive")]


def multiplicative() -> list[WeightPanel]:
    def score(name: Any) -> zoo.MultiplicativeAttention:
        return zoo.MultiplicativeAttention(DIM, DIM, name, width=32, rngs=seeded())

    general, concat = score("general"), score("concat")
    scaled(5, general.kernel)
    scaled(10, concat.query_kernel, concat.key_kernel, concat.score_kernel)
    dots = [read(score(name), name) for name in ("dot", "scaled_dot")]
    return [*dots, read(general, "general"), read(concat, "concat")]


def location() -> list[WeightPanel]:
    module = zoo.LocationAttention(DIM, len(SENTENCE), rngs=seeded())
    scaled(8, module.kernel)
    return [read(module, "location")]


def local_m() -> list[WeightPanel]:
    return [
        read(
            zoo.LocalMonotonicAttention(DIM, DIM, "scaled_dot", window=2, rngs=seeded()), "local-m"
        )
    ]


def local_p() -> list[WeightPanel]:
    module = zoo.LocalPredictiveAttention(DIM, DIM, "scaled_dot", window=2, rngs=seeded())
    scaled(12, module.position_vector)
    return [read(module, "local-p")]


def intra_temporal() -> list[WeightPanel]:
    module = zoo.IntraTemporalAttention(DIM, DIM, rngs=seeded())
    module.kernel[...] = jnp.eye(DIM) / 4
    words = sentence()
    cats = jnp.broadcast_to(words[:, 2:3], words.shape)
    _, weights = module(cats, words, return_weights=True)
    again = matrix("the query cat, again and again", weights, rows=_numbered("cat", 8))
    return [read(module, "intra-temporal"), again]


def location_aware() -> list[WeightPanel]:
    module = zoo.LocationAwareAttention(DIM, DIM, filters=1, kernel=3, rngs=seeded())
    for field in (module.query_kernel, module.key_kernel, module.filters):
        field[...] = jnp.zeros_like(field[...])
    module.filters[...] = module.filters[...].at[0].set(1)  # sees the neighbour on the left
    module.location_kernel[...] = jnp.ones_like(module.location_kernel[...])
    module.score_kernel[...] = jnp.full((DIM,), 5 / DIM)
    words = sentence()
    memory = module.prepare(words)
    first = jnp.eye(len(SENTENCE))[None, 0]

    def then(title: str, sharpening: float = 1.0, window: int | None = None) -> WeightPanel:
        module.sharpening, module.window = sharpening, window
        (_, weights), _ = module.extend(words[:, 1:], memory, first, return_weights=True)
        weights = jnp.concatenate([first[None, :, None], weights], axis=2)
        return matrix(title, weights)

    return [
        then("moves on"),
        then("sharpened twice", sharpening=2.0),
        then("within a window of 1", window=1),
    ]


def coverage() -> list[WeightPanel]:
    module = zoo.CoverageAttention(
        DIM, DIM, 32, kernel_init=lecun, score_init=jax.nn.initializers.normal(0.5), rngs=seeded()
    )
    words = sentence()
    cats = jnp.broadcast_to(words[:, 2:3], words.shape)

    def again(title: str) -> WeightPanel:
        _, weights = module(cats, words, return_weights=True)
        return matrix(title, weights, rows=_numbered("cat", 8))

    plain = again("without coverage")
    module.coverage_kernel[...] = -4 * jnp.sign(module.score_kernel[...])
    return [plain, again("what was read counts against it")]


def none() -> list[WeightPanel]:
    return [read(zoo.FixedAttention(), "none")]


def hard() -> list[WeightPanel]:
    soft = zoo.MultiplicativeAttention(DIM, DIM, "scaled_dot", rngs=seeded())
    module = zoo.HardAttention(soft)
    return [
        read(soft, "its soft weights"),
        read(module, "arg max"),
        read(module, "one draw", sample_key=jax.random.key(1)),
    ]


def multi_head() -> list[WeightPanel]:
    def build(**options: Any) -> zoo.MultiHeadAttention:
        module = zoo.MultiHeadAttention(DIM, 2, rngs=seeded(), **options)
        identity(module.query, module.key)
        return module

    sinks = build(mask_mod=masks.causal(), sinks=True)
    assert sinks.sinks is not None
    sinks.sinks[...] = jnp.full((2,), 2.0)
    return [
        *heads(build(), ["head 0: word class", "head 1: the word"]),
        read(build(rotary=zoo.Rotary(base=20.0)), "head 0, rotary"),
        read(build(score_mod=zoo.ALiBi(2), mask_mod=masks.causal()), "head 1, causal, ALiBi", 1),
        read(build(mask_mod=masks.sliding_window(3)), "head 0, window of 3"),
        read(sinks, "head 0, causal, sink"),
    ]


def cosine() -> list[WeightPanel]:
    module = zoo.CosineAttention(DIM, 2, rngs=seeded())
    identity(module.query, module.key)
    cosines = read(module, "tau 0.1")
    scaled(5, module.query.kernel, module.key.kernel)
    longer = read(module, "five times as long")
    module.log_scale[...] = jnp.full((2,), jnp.log(2.0))
    return [cosines, longer, read(module, "tau 0.5")]


def latent() -> list[WeightPanel]:
    module = zoo.LatentAttention(DIM, 2, latent_dim=DIM, rotary_dim=4, head_dim=8, rngs=seeded())
    identity(module.down)
    # Head n reads the n-th half of c, as the heads of multi-head attention do.
    module.key_up[...] = jnp.eye(DIM).reshape(2, 8, DIM)
    kernel = module.query.kernel[...].reshape(DIM, 2, 12)
    kernel = kernel.at[:, :, :8].set(jnp.eye(DIM).reshape(DIM, 2, 8))
    module.query.kernel[...] = kernel.reshape(DIM, 24)
    return heads(module)


def differential() -> list[WeightPanel]:
    panels = []
    for title, share in (("first softmax alone", 0.0), ("less 0.8 of the second", 0.8)):
        module = zoo.DifferentialAttention(DIM, 1, lambda_init=share, rngs=seeded())
        for projection in (module.query, module.key):
            # Class in the first parts of query and key, and half of that in the second ones.
            columns = jnp.concatenate([jnp.eye(DIM, 8), 0.5**0.5 * jnp.eye(DIM, 8)], axis=1)
            projection.kernel[...] = columns
        module.lambda_vectors[...] = jnp.zeros((4, 8))  # lambda is lambda_init
        panels.append(read(module, title))
    return panels


def forgetting() -> list[WeightPanel]:
    module = zoo.ForgettingAttention(DIM, 1, rngs=seeded())
    identity(module.key)
    module.query.kernel[...] = 0.3 * jnp.eye(DIM)
    module.forget.kernel[...] = jnp.zeros((DIM, 1))
    words = sentence()
    panels = [read(module, "gates of 1/2")]
    gates = jnp.zeros((1, len(SENTENCE), 1)).at[:, 4].set(-4.0)
    memory = dataclasses.replace(module.prepare(words), log_gates=gates)
    _, weights = module.attend(words, memory, return_weights=True)
    return [*panels, matrix("a gate closes at the second 'the'", weights)]


def positional() -> list[WeightPanel]:
    module = zoo.PositionalAttention(DIM, len(SENTENCE), rngs=seeded())
    scaled(600, module.table)
    return [read(module, "positional")]


def factorised_positional() -> list[WeightPanel]:
    def build(rank: int) -> WeightPanel:
        module = zoo.FactorisedPositionalAttention(DIM, len(SENTENCE), rank=rank, rngs=seeded())
        scaled(25, module.query_factor, module.key_factor)
        return read(module, f"rank {rank}")

    return [build(1), build(4)]


def synthesizer() -> list[WeightPanel]:
    variants = ("dense", "factorised_dense", "random", "factorised_random")
    return [
        read(zoo.Synthesizer(DIM, len(SENTENCE), variant=variant, rngs=seeded()), variant)
        for variant in variants
    ]


def linear() -> list[WeightPanel]:
    module = zoo.LinearAttention(DIM, 2, rngs=seeded())
    identity(module.query, module.key)
    projection = orthogonal_projection(jax.random.key(0), 256, 8)
    performer = zoo.LinearAttention(DIM, 2, feature_map=random_features(projection), rngs=seeded())
    identity(performer.query, performer.key)
    # q . k / sqrt(H), for which the estimate is made, without a scale of its own.
    scaled(8**-0.25, performer.query.kernel, performer.key.kernel)
    return [*heads(module), read(performer, "head 0, random features")]


def causal_linear() -> list[WeightPanel]:
    module = zoo.CausalLinearAttention(DIM, 2, rngs=seeded())
    identity(module.query, module.key)
    return heads(module)


def fast_weight() -> list[WeightPanel]:
    module = zoo.FastWeightProgrammer(DIM, 2, nu=3, rngs=seeded())
    identity(module.query, module.key)
    return heads(module, times=15)


def delta_net() -> list[WeightPanel]:
    panels = []
    for title, gated in (("DeltaNet, head 0", False), ("gated, head 0", True)):
        module = zoo.DeltaNet(DIM, 2, gated=gated, rngs=seeded())
        identity(module.query, module.key)
        words = sentence()
        _, weights = module(words, words, return_weights=True)
        panels.append(matrix(title, weights, times=4))
    return panels


def kimi_delta() -> list[WeightPanel]:
    module = zoo.KimiDeltaAttention(DIM, 2, rngs=seeded())
    identity(module.query, module.key)
    return heads(module, times=4)


def gated_linear() -> list[WeightPanel]:
    module = zoo.GatedLinearAttention(DIM, 2, key_width=DIM, rngs=seeded())
    identity(module.query, module.key)
    return heads(module, times=0.3)


def retnet() -> list[WeightPanel]:
    module = zoo.RetNetAttention(DIM, 2, rngs=seeded())
    identity(module.query, module.key)
    return heads(module, times=0.3)


def mab() -> list[WeightPanel]:
    module = zoo.MAB(DIM, 2, rngs=seeded())
    identity(module.attention.query, module.attention.key)
    return heads(module)


def graph() -> list[WeightPanel]:
    module = zoo.GraphAttention(DIM, 2, rngs=seeded())
    scaled(2, module.query_kernel, module.key_kernel)
    place = np.arange(len(SENTENCE))
    near = np.abs(place[:, None] - place[None, :]) <= 1
    near[2, 7] = near[7, 2] = True  # cat - dog
    mask = jnp.asarray(near)[None, None]
    return [read(module, f"head {head}", head, mask=mask) for head in range(2)]


def linformer() -> list[WeightPanel]:
    module = zoo.Linformer(DIM, 2, len(SENTENCE), 4, rngs=seeded())
    identity(module.query, module.key)
    # Neighbours share a row: two words are read as one.
    pairs = jnp.repeat(jnp.eye(4), 2, axis=1)[None] / 2
    averaged = zoo.Linformer(DIM, 2, len(SENTENCE), 4, rngs=seeded())
    identity(averaged.query, averaged.key)
    assert averaged.value_rows is not None
    averaged.key_rows[...] = averaged.value_rows[...] = pairs
    return [read(module, "head 1, as it starts", 1), read(averaged, "head 1, pairs of words", 1)]


def hopfield() -> list[WeightPanel]:
    def build(title: str, **options: Any) -> WeightPanel:
        module = zoo.HopfieldAttention(DIM, 2, rngs=seeded(), **options)
        identity(module.query, module.key)
        return read(module, title, 1)

    return [
        build("head 1, one update", steps=1),
        build("head 1, up to 10", steps=10),
        build("the same, beta = 1/2", steps=10, beta=0.5),
        build("the same, beta = 1", steps=10, beta=1.0),
    ]


def native_sparse() -> list[WeightPanel]:
    module = zoo.NativeSparseAttention(DIM, 1, block=2, selected=2, window=2, rngs=seeded())
    module.query.kernel[...] = 0.4 * jnp.eye(DIM)
    module.key.kernel[...] = jnp.tile(jnp.eye(DIM), (1, 3))
    gates: Any = module.gates
    gates.kernel[...] = jnp.zeros((DIM, 3))
    panels = []
    for branch, title in enumerate(("compressed", "selected", "window")):
        gates.bias[...] = jnp.full((3,), -30.0).at[branch].set(30.0)
        panels.append(read(module, title))
    gates.bias[...] = jnp.zeros((3,))
    return [*panels, read(module, "all, gates of 1/2")]


def lsh() -> list[WeightPanel]:
    def build(title: str, buckets: int, chunk: int, rounds: int) -> WeightPanel:
        module = zoo.LSHAttention(
            DIM, 2, num_buckets=buckets, chunk=chunk, rounds=rounds, rngs=seeded()
        )
        identity(module.query)
        return read(module, title)

    return [
        build("head 0, 4 buckets", 4, 8, 1),
        build("the same, chunks of 1", 4, 1, 1),
        build("4 buckets, 4 rounds", 4, 8, 4),
    ]


def lstmn() -> list[WeightPanel]:
    module = zoo.LSTMN(DIM, DIM, rngs=seeded())
    scaled(4, module.score.kernel)
    _, weights = module(sentence(), return_weights=True)
    return [matrix("LSTMN", weights)]


def decomposable() -> list[WeightPanel]:
    module = zoo.DecomposableAttention(DIM, 32, 3, max_distance=2, rngs=seeded())
    assert module.intra is not None
    module.intra.bias[...] = jnp.asarray([1.0, 2.0, 3.0, 2.0, 1.0, 0.0])
    words = sentence()
    _, maps = module(words, words, return_weights=True)
    return [
        matrix("between the sentences", maps["premise"]),
        matrix("intra", maps["premise/intra"]),
    ]


def structured() -> list[WeightPanel]:
    module = zoo.StructuredSelfAttention(DIM, 32, 4, rngs=seeded())
    scaled(3, module.hop.kernel)
    _, weights = module(sentence(), return_weights=True)
    return [matrix("structured", jnp.swapaxes(weights, 1, 2), rows=_numbered("hop", 4))]


def isab() -> list[WeightPanel]:
    module = zoo.ISAB(DIM, 2, 3, rngs=seeded())
    scaled(2, module.points)
    _, (into, back) = module(sentence(), return_weights=True)
    points = _numbered("point", 3)
    return [
        matrix("points read words", into, rows=points),
        matrix("words read points", back, columns=points),
    ]


def pma() -> list[WeightPanel]:
    module = zoo.PMA(DIM, 2, 3, rngs=seeded())
    scaled(4, module.seeds)
    _, weights = module(sentence(), return_weights=True)
    return [matrix("seeds read words", weights, rows=_numbered("seed", 3))]


def latent_reader() -> list[WeightPanel]:
    module = zoo.LatentReader(DIM, 2, 4, input_dim=DIM, rngs=seeded())
    _, weights = module(sentence(), return_weights=True)
    return [matrix("latents read words", weights, rows=_numbered("latent", 4))]


def normalisers() -> list[WeightPanel]:
    def build(**options: Any) -> zoo.MultiplicativeAttention:
        return zoo.MultiplicativeAttention(DIM, DIM, "scaled_dot", rngs=seeded(), **options)

    return [
        read(build(), "softmax"),
        read(build(normalise=entmax15), "entmax15"),
        read(build(normalise=sparsemax), "sparsemax"),
    ]


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word} {n}" for n in range(count))


def non_local() -> Figure:
    """The picture, and where three of its places look; each map on a scale of its own."""
    image = picture()
    _, weights = build_gate("non_local")(image, return_weights=True)
    light = np.asarray(image[0, :, :, CHANNELS.index("light")], float)
    shown = {"input": light}
    for title, (row, column) in {"disc": (9, 14), "edge": (5, 14), "sky": (3, 2)}.items():
        weight = np.asarray(weights[0, 0, 24 * row + column], float).reshape(24, 24)
        shown[f"from the {title} ({row}, {column})"] = weight
    return plotting.matrix_grid(shown, numbers=True)


def gate(name: str) -> Figure:
    """A gate's input, its weights by place in the channel where they vary most, and by channel."""
    if name == "non_local":  # its weights are of pairs of places
        return non_local()
    image = picture()
    _, weights = build_gate(name)(image, return_weights=True)
    title = None
    if weights.shape[1] == 1:
        title = "all places"
    elif weights.shape[3] == 1:
        title = "all channels"
    weights = np.broadcast_to(np.asarray(weights[0], float), image.shape[1:])
    channel = int(np.argmax(weights.std((0, 1))))
    return plotting.gate_panels(
        np.asarray(image[0, :, :, CHANNELS.index("light")], float),
        weights.mean(-1) if title else weights[:, :, channel],
        weights.mean((0, 1)),
        CHANNELS,
        place_title=title or f"channel “{CHANNELS[channel]}”",
        low=1.0 if name == "bam" else 0.0,
    )


def build_gate(name: str) -> zoo.Gate:
    """A gate for the eight channels, with a layer in front of its sigmoid that says something."""
    C, rngs = len(CHANNELS), seeded()
    match name:
        case "se":
            module = zoo.SqueezeExcitation(C, 2, rngs=rngs)
            scaled(4, module.mlp.excite.kernel)
        case "eca":
            module = zoo.EfficientChannelAttention(C, rngs=rngs)
            scaled(4, module.convolution.kernel)
        case "spatial":
            module = zoo.SpatialGate(rngs=rngs)
            look_for_brightness(module)
        case "cbam":
            module = zoo.CBAM(C, 2, rngs=rngs)
            scaled(3, module.channel.mlp.excite.kernel)
            look_for_brightness(module.spatial, gain=40)  # what it sees is dimmed already
        case "bam":
            module = zoo.BAM(C, 2, rngs=rngs)
            scaled(4, module.excite.kernel)
            scaled(20, module.place.kernel)
        case "coordinate":
            module = zoo.CoordinateAttention(C, rngs=rngs)
            scaled(12, module.row.kernel, module.column.kernel)
        case "mhca":
            module = zoo.MHCA(C, 2, rngs=rngs)
            scaled(4, *(layer.kernel for layer in module.widen))
        case "non_local":
            module = zoo.NonLocalBlock(C, 1, rngs=rngs)
            for layer in (module.query, module.key):
                layer.kernel[...] = 4 * (jnp.eye(C) - 1 / C)  # compares colours, not brightness
        case _:
            raise ValueError(f"gate {name!r} has no picture; add a case for it")
    return module


def look_for_brightness(gate: zoo.SpatialGate, gain: float | int = 14) -> None:
    """A Gaussian window on the mean over channels, and a bias: open where the neighbourhood is
    bright.
    """
    place = np.arange(7) - 3
    window = np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / 8)
    kernel = np.zeros((7, 7, 2, 1))
    kernel[:, :, 1, 0] = gain * window / window.sum()
    gate.convolution.kernel[...] = jnp.asarray(kernel, jnp.float32)
    assert gate.norm.bias is not None
    gate.norm.bias[...] = jnp.full((1,), -6.0)


def masks_grid() -> Figure:
    """Masks of `ops.masks` and some combinations, over 12 queries and 12 keys."""
    ids = jnp.asarray([0] * 5 + [1] * 4 + [2] * 3)
    shown: Mapping[str, masks.Mask] = {
        "causal()": masks.causal(),
        "sliding_window(4)": masks.sliding_window(4),
        "symmetric_window(2)": masks.symmetric_window(2),
        "prefix_lm(4)": masks.prefix_lm(4),
        "document(ids)": masks.document(ids),
        "padding([9])": masks.padding(jnp.asarray([9])),
        "dilated(3)": masks.dilated(3),
        "neighbourhood(4, 1)": masks.neighbourhood(4, 1),
        "document(ids) & causal()": masks.document(ids) & masks.causal(),
        "causal() & (sliding_window(3)\n| sink_tokens(2))": masks.causal()
        & (masks.sliding_window(3) | masks.sink_tokens(2)),
        "~sliding_window(4)\n& causal()": ~masks.sliding_window(4) & masks.causal(),
        "causal().offset(6)": masks.causal().offset(6),
    }
    dense = {title: np.asarray(mask.to_dense(1, 1, 12, 12))[0, 0] for title, mask in shown.items()}
    return plotting.matrix_grid(dense)


def score_mods_grid() -> Figure:
    """What score modifiers make of scores that are all 0, over 12 queries and 12 keys."""
    random = np.random.default_rng(0)
    table = jnp.asarray(random.standard_normal((1, 32)), jnp.float32)
    shown: Mapping[str, score_mods.ScoreMod] = {
        "alibi(2), head 0": score_mods.alibi(2),
        "t5_bias, random table": score_mods.t5_bias(table, bidirectional=True, max_distance=16),
        "clipped_bias, radius 3": score_mods.clipped_bias(table[:, :7]),
        "distance(lambda d: -d**2 / 8)": score_mods.distance(lambda d: -(d**2) / 8),
        "the same, then softcap(2)": score_mods.distance(lambda d: -(d**2) / 8).then(
            score_mods.softcap(2.0)
        ),
    }
    dense = {title: np.asarray(mod.to_dense(1, 1, 12, 12))[0, 0] for title, mod in shown.items()}
    return plotting.matrix_grid(dense, columns=5, numbers=True)


MATRICES: dict[str, Callable[[], list[WeightPanel]]] = {
    "additive": additive,
    "multiplicative": multiplicative,
    "location": location,
    "local_m": local_m,
    "local_p": local_p,
    "intra_temporal": intra_temporal,
    "location_aware": location_aware,
    "coverage": coverage,
    "none": none,
    "hard": hard,
    "multi_head": multi_head,
    "cosine": cosine,
    "latent": latent,
    "differential": differential,
    "forgetting": forgetting,
    "positional": positional,
    "factorised_positional": factorised_positional,
    "synthesizer": synthesizer,
    "linear": linear,
    "causal_linear": causal_linear,
    "fast_weight": fast_weight,
    "delta_net": delta_net,
    "kimi_delta": kimi_delta,
    "gated_linear": gated_linear,
    "retnet": retnet,
    "mab": mab,
    "graph": graph,
    "linformer": linformer,
    "hopfield": hopfield,
    "lsh": lsh,
    "native_sparse": native_sparse,
    "lstmn": lstmn,
    "decomposable": decomposable,
    "structured": structured,
    "isab": isab,
    "pma": pma,
    "latent_reader": latent_reader,
    "normalisers": normalisers,
}
