"""Roles of all parameters: every model with every attention its config takes, scanned and not."""

import functools
import itertools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import attention_class
from attnzoo.config.mesh import MeshConfig
from attnzoo.config.model import Model
from attnzoo.config.schema import fields_of, kind_of
from attnzoo.config.training import MuonConfig, Optimizer, TrainingConfig
from attnzoo.models import ALIGNERS, CLASSIFIERS, DECODERS, ENCODERS, READERS, TRANSLATORS
from attnzoo.training.optimizer import build_optimizer, decay_mask, muon_axes
from attnzoo.training.parameters import describe, path_of
from attnzoo.training.placement import Placement

V = 29  # tokens and classes; no other axis has this size
MODELS = {
    **dict.fromkeys(TRANSLATORS | ALIGNERS, (V, V)),
    **dict.fromkeys(DECODERS | ENCODERS | CLASSIFIERS | READERS, (V,)),
}
MAKERS: dict[str, Any] = TRANSLATORS | ALIGNERS | DECODERS | ENCODERS | CLASSIFIERS | READERS
CONFIGS = {kind_of(cls): cls for cls in get_args(get_args(Model)[0])}
SIZES: dict[str, Any] = {
    "dim": 12,
    "hidden": 8,
    "embedding": 10,
    "maxout": 6,
    "max_length": 37,
    "channels": 3,
    "layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "depth": 8,
    "width": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "latent_dim": 5,
    "rotary_dim": 2,
    "head_dim": 3,
    "rank": 3,
    "reduction": 4,
    "image_size": 8,
    "patch": 2,
    "registers": 2,
    "sinks": True,
    "qk_norm": True,
    "layer_scale": 0.1,
    "distillation": "head",
    "mask_token": True,
    "source_words": 7,
    "num_classes": V,
}
CHOICES = {
    kind: {name: field for name, field in fields_of(cls).items() if "attention" in name}
    for kind, cls in CONFIGS.items()
}
GRID = [
    (model, kind)
    for model in MODELS
    for kind in dict.fromkeys(k for field in CHOICES[model].values() for k in field.kinds)
]


def sized(cls: type, **settings: Any) -> Any:
    """A config of a class with small sizes."""
    return cls(**{name: SIZES[name] for name in fields_of(cls) if name in SIZES} | settings)


@functools.cache
def parameters(model: str, kind: str, scan: bool = False) -> dict[str, tuple[Any, Any]]:
    """Key path and shape of each parameter by its path; {} where the two do not fit together."""
    fields = CHOICES[model]

    def made(places: frozenset[str]) -> Any:
        chosen = {name: field.kinds[kind] for name, field in fields.items() if name in places}
        others = {
            name: field.kinds["multi_head"]
            for name, field in fields.items()
            if name not in places and "multi_head" in field.kinds
        }
        settings = {name: sized(cls) for name, cls in (chosen | others).items()}
        config = sized(CONFIGS[model], **settings, **({"scan": True} if scan else {}))
        return MAKERS[model](config, *MODELS[model], rngs=nnx.Rngs(0))

    # Everywhere at once, or, if it cannot look ahead, wherever it need not; or not in a decoder.
    places = frozenset(name for name, field in fields.items() if kind in field.kinds)
    for chosen in (places, places - {"attention"}, places - {"decoder_attention"}):
        try:
            made_model = nnx.eval_shape(functools.partial(made, chosen)) if chosen else None
        except ValueError as error:
            said = ("is causal", "has no causal form", "needs equal widths")
            assert any(reason in str(error) for reason in said)  # noqa: PT017
            continue
        if made_model is not None:
            tree = nnx.to_pure_dict(nnx.state(made_model, nnx.Param))
            flat = jax.tree_util.tree_leaves_with_path(tree)
            return {path_of(where): (where, leaf) for where, leaf in flat}
    return {}


def tree_of(found: dict[str, tuple[Any, Any]]) -> dict[Any, Any]:
    """The pure dict of the parameters."""
    tree: dict[Any, Any] = {}
    for where, leaf in found.values():
        *parents, last = (key.key for key in where)
        functools.reduce(lambda node, part: node.setdefault(part, {}), parents, tree)[last] = leaf
    return tree


def by_path(function: Any, found: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """What a function of a tree says of each parameter."""
    known = lambda x: x is None or isinstance(x, tuple)  # noqa: E731
    said = jax.tree_util.tree_leaves_with_path(function(tree_of(found)), is_leaf=known)
    return {path_of(where): value for where, value in said}


def is_vector(path: str, shape: tuple[int, ...]) -> bool:
    """What has no second axis, and biases of heads."""
    return len(shape) < 2 or path.endswith("/bias")


def multiplies(path: str, shape: tuple[int, ...]) -> bool:
    """Whether features are multiplied by a parameter of a layer by itself, as its owner does it."""
    owner, _, name = path.rpartition("/")
    read_by_place = ("table", "embedding", "positions", "query_factor", "key_factor")
    for_each_channel = len(shape) == 2 and owner.endswith("_conv")
    return not (
        is_vector(path, shape)
        or V in shape
        or V - SIZES["source_words"] in shape  # what a pointer-generator writes, and does not copy
        or name.endswith(("token", "tokens"))
        or name in read_by_place
        or for_each_channel
    )


def windows(path: str, shape: tuple[int, ...]) -> int:
    """Axes of the window of a convolution."""
    return len(shape) - 2 if len(shape) == 4 or "convolution" in path else 0


@pytest.mark.parametrize(("model", "kind"), GRID)
def test_treatment_of_every_parameter(model: str, kind: str) -> None:
    found = parameters(model, kind)
    decay, axes = by_path(decay_mask, found), by_path(muon_axes, found)
    for path, (_, leaf) in found.items():
        shape = leaf.shape
        assert decay[path] is not is_vector(path, shape), path
        assert (axes[path] is not None) is multiplies(path, shape), path
        if axes[path] is not None:
            last = len(shape) - 1
            first = 0 if windows(path, shape) else last - 1
            assert axes[path] == (tuple(range(first, last)), (last,)), path


@pytest.mark.parametrize(("model", "kind"), GRID)
def test_a_scanned_stack_is_treated_as_its_layers(model: str, kind: str) -> None:
    if "scan" not in fields_of(CONFIGS[model]):
        assert "blocks" not in "".join(parameters(model, kind)) or model == "resnet"
        return
    alone, stacked = parameters(model, kind), parameters(model, kind, scan=True)
    assert len(alone) == len(stacked)
    placed = [by_path(Placement(MeshConfig(data=2), 2).of_parameters, x) for x in (alone, stacked)]
    decay = [by_path(decay_mask, x) for x in (alone, stacked)]
    axes = [by_path(muon_axes, x) for x in (alone, stacked)]
    for path, (where, leaf) in stacked.items():
        ours, more = path.replace("/blocks/", "/blocks/0/"), int("/blocks/" in path)
        assert leaf.shape[more:] == alone[ours][1].shape, path
        one, all_of_them = describe(alone[ours][0], leaf.shape[more:]), describe(where, leaf.shape)
        assert (all_of_them.role, all_of_them.layers) == (one.role, more), path
        assert all_of_them.stacked == one.stacked + more, path
        assert decay[1][path] is decay[0][ours], path
        numbers = axes[0][ours]
        if numbers is not None:
            numbers = tuple(tuple(axis + more for axis in part) for part in numbers)
        assert axes[1][path] == numbers, path
        padded = [
            [*sharding.spec, *[None] * 9][: len(leaf.shape)]
            for sharding in (placed[0][ours], placed[1][path])
        ]
        assert padded[1] == ([None] * more + padded[0])[: len(leaf.shape)], path


@pytest.mark.parametrize(("model", "kind"), GRID)
def test_every_matrix_and_table_has_a_place(model: str, kind: str) -> None:
    found = parameters(model, kind)
    placement = Placement(MeshConfig(data=2), 2)
    for path, sharding in by_path(placement.of_parameters, found).items():
        of_few_numbers = path.endswith("_bias/table")
        if not is_vector(path, found[path][1].shape) and not of_few_numbers:
            assert any(sharding.spec), path
    assert placement.notes == ["2 devices: data 2"]


def test_few_do_not_fit_together() -> None:
    """An empty tree passes all of the above."""
    kinds = CHOICES["gpt2"]["attention"].kinds
    unfit = {
        pair for pair in itertools.product(MODELS, ["dot", "scaled_dot"]) if pair[0] == "bahdanau"
    }
    one_way = {kind for kind in kinds if attention_class(kinds[kind]()).always_causal}
    assert {"fast_weight", "delta_net", "gated_linear", "retnet"} <= one_way
    unfit |= set(itertools.product(["bert", "vit", "word_aligner"], one_way))
    both_ways = {kind for kind in kinds if not attention_class(kinds[kind]()).takes_causal_mask}
    assert "linformer" in both_ways
    unfit |= set(itertools.product(["gpt2", "llama", "recommender"], both_ways))
    assert {pair for pair in GRID if not parameters(*pair)} == unfit


OPTIMIZERS = get_args(get_args(Optimizer)[0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_stack_is_updated_as_its_layers(optimizer: Any) -> None:
    """Two updates of three layers, each by itself and stacked; the stacks of two depths."""
    shapes = {"kernel": (5, 3), "key_up": (2, 3, 5), "score_kernel": (5,), "bias": (2, 5)}
    draw = np.random.default_rng(0)
    layers = [
        {name: jnp.float32(draw.normal(size=shape)) for name, shape in shapes.items()}
        for _ in range(3)
    ]
    alone = {
        "encoder": {"blocks": dict(enumerate(layers))},
        "decoder": {"blocks": dict(enumerate(layers[:2]))},
        "norm": {"scale": jnp.ones(3)},
    }

    def stack(tree: Any) -> Any:
        join = lambda *x: jnp.stack(x)  # noqa: E731
        blocks = {
            s: jax.tree.map(join, *tree[s]["blocks"].values()) for s in ("encoder", "decoder")
        }
        return {side: {"blocks": of} for side, of in blocks.items()} | {"norm": tree["norm"]}

    training = TrainingConfig(steps=9, optimizer=optimizer(), learning_rate=0.1, clip_norm=None)
    rule, _ = build_optimizer(training, total_steps=9, steps_per_epoch=9)

    @jax.jit
    def run(params: Any) -> Any:
        state = rule.init(params)
        for factor in (1.0, -0.5):
            gradients = jax.tree.map(lambda x, f=factor: f * x + 0.1, params)
            updates, state = rule.update(gradients, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    one, other = stack(run(alone)), run(stack(alone))
    # A few roundings of numbers near 1, in another order of summation.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


def test_muon_keeps_its_momentum_for_matrices_alone() -> None:
    """The cells, the attention and the readout of RNNsearch, but for embeddings and output."""
    found = parameters("bahdanau", "additive")
    rule, _ = build_optimizer(
        TrainingConfig(steps=1, optimizer=MuonConfig()), total_steps=1, steps_per_epoch=1
    )
    state = jax.eval_shape(rule.init, tree_of(found))
    paths = [path_of(where) for where, _ in jax.tree_util.tree_leaves_with_path(state)]
    momentum = {path.split("/mu/")[1] for path in paths if "/muon/" in path and "/mu/" in path}
    cells = [
        f"{cell}/{kernel}_kernel"
        for cell in ("forward_encoder", "backward_encoder", "decoder")
        for kernel in ("input", "gate", "candidate")
    ]
    names = ("initial", "context_kernel", "readout_state", "readout_embedding", "readout_context")
    layers = [f"{name}/kernel" for name in names]
    assert momentum == {"attention/query_kernel", "attention/key_kernel", *cells, *layers}
