"""Every model with every attention it accepts, small: made from the registries, not listed.

A new attention or model is held to the tests of products by being registered.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import AttentionConfig, MultiHeadConfig
from attnzoo.config.model import Model
from attnzoo.config.schema import fields_of
from attnzoo.config.two_towers import TextTowerConfig
from attnzoo.config.vit import ViTConfig
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

V, CLASSES = 13, 3
SMALL: dict[str, Any] = {
    "num_heads": 2,
    "latent_dim": 5,
    "rotary_dim": 4,
    "rank": 3,
    "window": 2,
    "max_length": 20,
    "dim": 8,
    "hidden": 10,
    "embedding": 6,
    "maxout": 5,
    "layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "image_size": 8,
    "patch": 2,
    "channels": 1,
    "depth": 8,
    "width": 5,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "reduction": 2,
    "stages": 1,
    "blocks": 1,
    "num_queries": 3,
    "hops": 2,
    "source_words": 4,
    "block": 2,
    "selected": 2,
    "image": ViTConfig(
        attention=MultiHeadConfig(num_heads=2), image_size=8, patch=2, channels=1, dim=8,
        hidden=10, layers=1, pre_norm=True, patch_bias=False,
    ),
    "text": TextTowerConfig(
        attention=MultiHeadConfig(num_heads=2), dim=8, hidden=10, layers=1, max_length=20
    ),
}  # fmt: skip
"""Sizes by the names that config fields have; other fields keep their defaults."""
EVEN = {"resnet": {"width": 4}, "bahdanau": {"hidden": 8}, "luong": {"hidden": 8}}
# Rotary embedding of two channels has one frequency, whatever its base.
EVEN["differential"] = {"head_dim": 4}
MODELS: dict[str, type] = {cls.kind: cls for cls in get_args(get_args(Model)[0])}
REGISTRIES = TRANSLATORS | DECODERS | ENCODERS | CLASSIFIERS | ALIGNERS | READERS | DETECTORS
REGISTRIES |= CAPTIONERS | TOWERS


def small(cls: type, **settings: Any) -> Any:
    """A config of few units; ``settings`` are fields to be otherwise."""
    names = fields_of(cls)
    sizes = SMALL | EVEN.get(getattr(cls, "kind", ""), {})
    chosen = {
        name: sizes[name]
        for name, field in names.items()
        # A window of self-attention, or a number of hops, is a choice, not a size.
        if name in sizes and not (name in ("window", "width", "hops") and field.default is None)
    }
    return cls(**(chosen | settings))


def attention_fields(cls: type) -> dict[str, dict[str, type]]:
    """The fields of a model's config that hold an attention, with the kinds that each takes."""
    return {
        name: field.kinds
        for name, field in fields_of(cls).items()
        if field.base is not None and issubclass(field.base, AttentionConfig)
    }


def pairs(*models: str) -> list[tuple[str, str]]:
    """(model, kind) of all attentions that the configs of these models take, in any field."""
    return [
        (model, kind)
        for model in models
        for kind in dict.fromkeys(
            k for kinds in attention_fields(MODELS[model]).values() for k in kinds
        )
    ]


def config_of(
    model: str, kind: str = "multi_head", *, but: tuple[str, ...] = (), **settings: Any
) -> Any:
    """The small config of a model with this attention in every field that takes it, ``but`` some;
    elsewhere multi-head.
    """
    cls = MODELS[model]
    chosen = {}
    for name, kinds in attention_fields(cls).items():
        chosen[name] = small(kinds[kind if kind in kinds and name not in but else "multi_head"])
    return small(cls, **(chosen | settings))


def build(config: Any) -> Any:
    """The model of a config, before its parameters are drawn."""
    cls = REGISTRIES[config.kind]
    for registry, sizes in (
        (TRANSLATORS | CAPTIONERS, (V, V)),
        (DECODERS, (V,)),
        (ENCODERS, (V,)),
        (CLASSIFIERS, (CLASSES,)),
        (DETECTORS, (CLASSES,)),
        (ALIGNERS, (V, V)),
        (READERS, (V,)),
        (TOWERS, (V,)),
    ):
        if config.kind in registry:
            return cls(config, *sizes, rngs=nnx.Rngs(0))
    raise KeyError(config.kind)


def drawn_model(config: Any, deviation: float = 0.4) -> Any:
    """The model with parameters drawn: nothing at a special value, slots unlike."""
    return drawn(functools.partial(build, config), 0, deviation)


def unless_refused(config: Any) -> Any | None:
    """The drawn model, or None if it is refused, in one line."""
    made = []
    refused = refusal(lambda: made.append(drawn_model(config)))
    return made[0] if refused is None else None


def refusal(function: Any, *arguments: Any, **keywords: Any) -> str | None:
    """What a call is refused with, one line; None if it is not. Anything else is raised."""
    try:
        function(*arguments, **keywords)
    except (ValueError, NotImplementedError) as error:
        text = str(error)
        assert "\n" not in text, text
        assert len(text) > 20, f"a refusal says what came and what was wanted: {text!r}"
        return text
    return None


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    """Equal up to ``tolerance`` of the largest number."""
    found, wanted = (np.asarray(x).astype(np.float64) for x in (found, wanted))
    assert found.shape == wanted.shape
    scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-3)
    assert np.isfinite(found).all()
    worst = float(np.abs(found - wanted).max(initial=0.0)) / scale
    assert worst <= tolerance, f"off by {worst:.2g} of the largest number"


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Annotated shapes are not checked, which takes a third of the time of a trace.

    The contract's tests check those of attentions, the models' own tests those of models.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def compiled(function: Any, model: Any) -> Any:
    """``function(model, ...)`` as one program, compiled once for all arguments of some shapes."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, *arguments: function(nnx.merge(graph, state), *arguments))

    def call(*arguments: Any) -> Any:
        with unchecked():
            return run(state, *arguments)

    return call


def numbers(tree: Any) -> Any:
    """The arrays in numpy: cutting one compiles nothing."""
    return jax.tree.map(np.asarray, tree)


def computed(function: Any, model: Any, *arguments: Any) -> Any:
    """What ``function(model, *arguments)`` computes, as one compiled program."""
    return numbers(compiled(function, model)(*arguments))


def traced(function: Any, model: Any, *arguments: Any) -> Any:
    """The shapes and dtypes of what ``function`` would compute: nothing is compiled."""
    graph, state = nnx.split(model)
    run = lambda state, *arguments: function(nnx.merge(graph, state), *arguments)  # noqa: E731
    with unchecked():
        return jax.eval_shape(run, state, *arguments)


def as_bfloat16(model: Any) -> Any:
    """The model with its parameters in bfloat16, as training with that compute dtype has it."""
    graph, state = nnx.split(model)
    cast = lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    return nnx.merge(graph, jax.tree.map(cast, state))


def scanned(config: Any) -> Any | None:
    """The config with its layers in a loop; None if it has no such thing."""
    return dataclasses.replace(config, scan=True) if hasattr(config, "scan") else None


def stacked(model: Any, config: Any) -> Any:
    """The scanned twin of a model, with the same parameters."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(config)))
    plain = dict(nnx.to_flat_state(nnx.state(model)))
    taken = []
    for path, leaf in nnx.to_flat_state(state):
        if path in plain:
            value = plain[path][...]
        else:
            at = path.index("blocks") + 1
            layers = [plain[(*path[:at], i, *path[at:])][...] for i in range(leaf.shape[0])]
            value = jnp.stack(layers)
        taken.append((path, leaf.replace(value)))
    return nnx.merge(graph, nnx.from_flat_state(taken))
