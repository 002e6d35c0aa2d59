"""Every setting does something: each field of every model and attention, changed, changes the
parameters, their first values or a program, or it is refused in one line.

Made from the registries. Nothing is compiled: programs are compared as they are traced.
"""

import dataclasses
import functools
import hashlib
from typing import Any, Literal, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import MODELS, attention_fields, build, config_of, pairs, refusal, unchecked

from attnzoo.attention import AdditiveAttention, Site
from attnzoo.config.attention import AdditiveConfig, HardConfig, MultiHeadConfig
from attnzoo.config.schema import fields_of
from attnzoo.models import (
    ALIGNERS,
    CAPTIONERS,
    CLASSIFIERS,
    DECODERS,
    DETECTORS,
    ENCODERS,
    READERS,
    TOWERS,
    TRANSLATORS,
)

RECORDS = {
    "start_id": "read by who decodes: pretrained folders, generation",
    "eos_id": "read by who decodes: pretrained folders, generation",
    "pad_id": "read by who pads a batch",
}
"""Fields that describe the model to others, with who reads them."""
WITHIN: dict[str, dict[str, Any]] = {
    "num_classes": {"head": "sequence"},
    "pooler": {"head": "none"},
    "pooler_activation": {"head": "sequence"},
    "layer_groups": {"layers": 2},
    "global_layers": {"layers": 2, "attention": MultiHeadConfig(num_heads=2, window=2)},
    "local_rotary_base": {"attention": MultiHeadConfig(num_heads=2, window=2)},
    "antialias": {"image_size": 12},
    "branch_rate": {"layers": 2},
    "reward_weight": {"attention": HardConfig()},
    "entropy_weight": {"attention": HardConfig()},
    "hops": {"pooling": "structured", "attention": AdditiveConfig()},
    "rotary_base": {"positions": "rotary", "dim": 16},  # a single frequency has no base
    "expected": {"attention": HardConfig()},
    "estimator": {"attention": HardConfig()},
}
"""What else has to be chosen for a field to be asked for."""
WITHIN_ATTENTION: dict[str, dict[str, Any]] = {"global_tokens": {"window": 2}}
"""The same for the fields of an attention."""
OTHERS = {
    "max_length": 11,
    "depth": 14,
    "rotary_width": 2,
    "num_heads": 4,
    "num_kv_heads": 1,
    "layer_groups": 1,
    "global_layers": (1,),
}


def other(name: str, annotation: Any, value: Any) -> Any:
    """Another value of a field's type."""
    if name in OTHERS:
        return OTHERS[name]
    while get_origin(annotation) is not None and get_origin(annotation) is not Literal:
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Literal:
        return next(choice for choice in reversed(get_args(annotation)) if choice != value)
    if dataclasses.is_dataclass(annotation):
        return annotation()
    if annotation is bool:
        return not value
    if annotation is float:
        return 0.25 if value is None or value == 0 else value / 2
    return 2 if value is None else value + 2


def changes(cls: type, config: Any, own: Any = None) -> list[tuple[str, Any]]:
    """The fields of a config but its kind and its attentions, each with another value."""
    return [
        (name, other(name, field.annotation, getattr(config, name)))
        for name, field in fields_of(cls).items()
        if name != "kind" and field.base is None and name not in RECORDS
    ]


def digest_of(function: Any, *arguments: Any) -> str:
    """A digest of a program as it is traced, with the numbers that it holds."""
    with unchecked():
        traced = jax.make_jaxpr(function)(*arguments)
    digest = hashlib.sha256(str(traced).encode())
    for constant in traced.consts:
        digest.update(np.asarray(constant).tobytes())
    return digest.hexdigest()


@functools.cache
def built(config: Any) -> tuple[str, Any, Any]:
    """How the parameters are made, with their names; the model's graph and shapes of its state."""
    found = []

    def make() -> Any:
        graph, state = nnx.split(build(config))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        found.append((graph, shapes))
        return nnx.to_pure_dict(state)

    digest = digest_of(make)
    return f"{digest} {jax.tree.structure(found[0][1])}", *found[0]


def made(config: Any) -> str:
    """How the parameters are made, with their names."""
    return built(config)[0]


def uses(kind: str) -> list[Any]:
    """Functions of a model: training, then reading or decoding."""
    tokens = jnp.zeros((2, 7), jnp.int32)
    rngs = lambda: nnx.Rngs(dropout=0)  # noqa: E731
    if kind in CLASSIFIERS | DETECTORS:
        images, wide = jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 16, 16, 1))
        return [lambda m: m(images, rngs=rngs()), lambda m: m(wide)]
    if kind in ENCODERS:
        return [lambda m: m(tokens, rngs=rngs())]
    if kind in TOWERS:
        images, wide = jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 16, 16, 1))
        return [lambda m: m(images, tokens, rngs=rngs()), lambda m: m(wide, tokens)]
    if kind in CAPTIONERS:
        pictures = jnp.zeros((2, 16, 16, 3))
        return [
            lambda m: m(pictures, tokens, return_weights=True),
            lambda m: m.in_training(pictures, tokens, rngs=rngs()),
        ]
    if kind in READERS:
        return [lambda m: m(jnp.zeros((2, 5, 7), jnp.int32), tokens, rngs=rngs())]
    if kind in ALIGNERS:
        words = jnp.tile(jnp.arange(7, dtype=jnp.int32), (2, 1))
        long = jnp.zeros((2, 9), jnp.int32)
        return [
            lambda m: m(tokens, tokens, words, words, rngs=rngs()).log_probs(),
            lambda m: m(long, long, long, long).log_probs(),
        ]
    if kind in DECODERS:
        return [lambda m: m(tokens, rngs=rngs()), lambda m: m.decode(tokens[:, :1], m.start(2))]

    def step(m: Any) -> Any:
        memory, state = m.start(tokens)
        return m.step(tokens[:, 0], state, memory)

    return [lambda m: m(tokens, tokens, rngs=rngs(), return_weights=True), step]


@functools.cache
def used(config: Any, number: int) -> str:
    """One use of the model of a config, as it is traced."""
    _, graph, state = built(config)
    run = uses(config.kind)[number]
    try:
        return digest_of(lambda state: run(nnx.merge(graph, state)), state)
    except ValueError as error:  # more patches than slots, say
        return str(error)


def has_effect(config: Any, changed: Any) -> bool:
    """Whether another config is another model, or is refused in one line."""
    if refusal(made, changed) is not None or made(changed) != made(config):
        return True
    numbers = range(len(uses(config.kind)))
    return any(used(changed, number) != used(config, number) for number in numbers)


def has_effect_or_is_refused(config: Any, name: str, value: Any) -> bool:
    """Whether a field changes the model, or another field of the config forbids it."""
    try:
        changed = dataclasses.replace(config, **{name: value})
    except ValueError:
        return True
    return has_effect(config, changed)


@pytest.mark.parametrize("kind", MODELS)
def test_every_field_of_a_model_has_an_effect(kind: str) -> None:
    silent = []
    for name, _ in changes(MODELS[kind], config_of(kind)):
        more = {"encoder_layers": 3, "decoder_layers": 3} if name == "alignment_layer" else {}
        more |= {k: v for k, v in WITHIN.get(name, {}).items() if k in fields_of(MODELS[kind])}
        config = config_of(kind, **more)
        value = dict(changes(MODELS[kind], config))[name]
        if not has_effect_or_is_refused(config, name, value):
            silent.append(f"{name}={value}")
    assert not silent, f"{kind}: {', '.join(silent)} change nothing and are not refused"


PARTS = [
    (kind, name)
    for kind, cls in MODELS.items()
    for name, field in fields_of(cls).items()
    if dataclasses.is_dataclass(field.annotation)
]
"""Models with the fields that hold the config of a part, such as an encoder."""


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_every_field_of_a_part_has_an_effect(kind: str, part: str) -> None:
    own, silent = getattr(config_of(kind), part), []
    for name, _ in changes(type(own), own):
        more = {k: v for k, v in WITHIN.get(name, {}).items() if k in fields_of(type(own))}
        within = dataclasses.replace(own, **more)
        value = dict(changes(type(own), within))[name]
        try:
            changed = dataclasses.replace(within, **{name: value})
        except ValueError:
            continue
        config = config_of(kind, **{part: within})
        if not has_effect(config, dataclasses.replace(config, **{part: changed})):
            silent.append(f"{name}={value}")
    assert not silent, f"{kind}.{part}: {', '.join(silent)} change nothing and are not refused"


@pytest.mark.parametrize(("kind", "attention"), pairs(*MODELS))
def test_every_field_of_an_attention_has_an_effect(kind: str, attention: str) -> None:
    silent = []
    for field, kinds in attention_fields(MODELS[kind]).items():
        if attention not in kinds:
            continue
        cls = kinds[attention]
        others = tuple(name for name in attention_fields(MODELS[kind]) if name != field)
        config = config_of(kind, attention, but=others)
        if refusal(made, config) is not None:
            continue
        own = getattr(config, field)
        for name, value in changes(cls, own):
            before = dataclasses.replace(own, **WITHIN_ATTENTION.get(name, {}))
            within = dataclasses.replace(config, **{field: before})
            if refusal(made, within) is not None:
                continue
            changed = dataclasses.replace(before, **{name: value})
            if not has_effect(within, dataclasses.replace(config, **{field: changed})):
                silent.append(f"{field}.{name}={value}")
    assert not silent, f"{kind}: {', '.join(silent)} change nothing and are not refused"


class WithoutDropout(AdditiveAttention):
    """A user's attention whose ``__init__`` takes no dropout."""

    def __init__(self, query_dim: int, key_dim: int, *, rngs: nnx.Rngs):
        super().__init__(query_dim, key_dim, 5, rngs=rngs)


def test_dropout_comes_with_the_class() -> None:
    site = Site.of_itself(8, is_causal=True, max_length=7, dropout=0.4)
    made = WithoutDropout.by_name(AdditiveConfig(), site, rngs=nnx.Rngs(0))
    assert made.dropout == 0.4
    x = jnp.ones((1, 7, 8))
    assert not np.array_equal(made(x, x), made(x, x, dropout_key=jax.random.key(0)))


TAKING = pairs(*TRANSLATORS, *DECODERS, *ENCODERS, *ALIGNERS, "vit")
OF_ATTENTION = ("dropout", "bias", "rotary", "bucket", "distance")
"""Parts of the names of model fields that not every attention can follow."""


@pytest.mark.parametrize(
    ("kind", "attention"), pairs(*TRANSLATORS, *DECODERS, *ENCODERS, *ALIGNERS, "vit")
)
def test_a_model_asks_no_attention_for_what_it_has_not(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    if refusal(made, config) is not None:
        config = config_of(kind, attention, but=("attention",))
        if refusal(made, config) is not None:
            return
    silent = []
    for name, value in changes(MODELS[kind], config):
        concerns = any(part in name for part in OF_ATTENTION)
        if concerns and not has_effect_or_is_refused(config, name, value):
            silent.append(f"{name}={value}")
    assert not silent, f"{kind} with {attention}: {', '.join(silent)} change nothing"
