"""Every model with every attention it takes: a sequence means the same however it is read.

At once or some tokens at a time, alone or padded or packed behind another, in another order of
beams, in a loop over layers, in bfloat16, under 64-bit types, and when there is nothing to read.
What a mechanism cannot do it refuses in one line.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import (
    REGISTRIES,
    V,
    as_bfloat16,
    close,
    config_of,
    drawn_model,
    pairs,
    refusal,
    scanned,
    stacked,
)

from attnzoo.config.model import Model
from attnzoo.models import CLASSIFIERS, DECODERS, ENCODERS, TRANSLATORS

HALF = 0.06  # bfloat16 has 8 bits; a handful of products and two norms lie one behind another
RNG = np.random.default_rng(0)


def ids(*shape: int) -> np.ndarray:
    """Tokens that are neither padding nor special."""
    return RNG.integers(4, V, shape, dtype=np.int32)


TEXT = ids(7)
"""What all rows hold, or a part of it."""
BLOCKS = (1, 1, 3, 2)


def test_every_model_of_the_registries_is_here() -> None:
    held = {model for model, _ in [*DECODED, *ENCODED, *TRANSLATED]} | {"vit", "resnet"}
    assert held == set(REGISTRIES)
    assert held == {cls.kind for cls in __import__("products").MODELS.values()}
    assert Model is not None


def rows_of_text() -> tuple[jax.Array, jax.Array]:
    """The whole text, the last five tokens padded on the left, the first five on the right."""
    tokens = np.tile(TEXT, (3, 1))
    valid = np.ones((3, 7), bool)
    tokens[1, :2], tokens[2, 5:] = 1, 2
    valid[1, :2] = valid[2, 5:] = False
    return jnp.asarray(tokens), jnp.asarray(valid)


def reordered(state: Any, order: list[int]) -> Any:
    """A state or memory with its rows gathered, as beam search does it."""
    index = jnp.asarray(order, jnp.int32)
    return jax.tree.map(lambda leaf: leaf[index], state)


def decoded(model: Any, tokens: Any, valid: Any) -> tuple[Any, Any]:
    """Logits block by block, with the rows exchanged before the last block, and their order."""
    order = [1, 0, 1]
    state, found, first = model.start(tokens.shape[0], tokens.shape[1]), [], 0
    for size in BLOCKS[:-1]:
        logits, state = model.decode(tokens[:, first : first + size], state, valid)
        found.append(logits)
        first += size
    if tokens.shape[0] == 0:
        return found, None
    last, state = model.decode(
        reordered(tokens, order)[:, first:], reordered(state, order), reordered(valid, order)
    )
    return jnp.concatenate(found, 1), last


# Language models.

DECODED = pairs(*DECODERS)


@pytest.mark.parametrize(("kind", "attention"), DECODED)
def test_a_decoder_reads_a_text_alike_in_every_way(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model = drawn_model(config)
    tokens, valid = rows_of_text()
    whole = model(tokens, valid=valid)
    alone = model(jnp.asarray([TEXT[2:], TEXT[:5]]))
    close(whole[1, 2:], alone[0])
    close(whole[2, :5], alone[1])
    close(model(tokens[:1])[0], whole[0])
    found, last = decoded(model, tokens[:2], valid[:2])
    close(found[0], whole[0, :5])
    close(found[1, 2:], whole[1, 2:5])
    close(last, whole[jnp.asarray([1, 0, 1]), 5:])

    documents = jnp.asarray([[3, 3, 3, 3, 3, 7, 7]], jnp.int32)
    packed = jnp.asarray([[*TEXT[:5], *TEXT[:2]]])
    if refusal(model, packed, documents=documents) is None:
        both = model(packed, documents=documents)
        close(both[0, :5], alone[1])
        close(both[0, 5:], alone[1, :2])

    close(stacked(model, scanned(config))(tokens, valid=valid)[:2], whole[:2])
    half = as_bfloat16(model)
    rough = half(tokens, valid=valid)
    assert rough.dtype == jnp.bfloat16
    close(rough[0], whole[0], HALF)
    found, last = decoded(half, tokens[:2], valid[:2])
    close(found[0], whole[0, :5], HALF)
    with jax.enable_x64(True):
        close(model(tokens, valid=valid)[0], whole[0])
        found, last = decoded(model, tokens[:2], valid[:2])
        close(found[0], whole[0, :5])
        close(last, whole[jnp.asarray([1, 0, 1]), 5:])
    assert model(tokens[:0]).shape == (0, 7, V)
    decoded(model, tokens[:0], valid[:0])


# Encoders of text.

ENCODED = pairs(*ENCODERS)


@pytest.mark.parametrize(("kind", "attention"), ENCODED)
def test_an_encoder_reads_a_text_alike_in_every_way(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    if refusal(drawn_model, config) is not None:
        return
    model = drawn_model(config)
    tokens, valid = rows_of_text()
    whole = model(tokens, valid=valid)
    alone = model(jnp.asarray([TEXT[2:], TEXT[:5]]))
    close(whole[1, 2:], alone[0])
    close(whole[2, :5], alone[1])
    close(model(tokens[:1])[0], whole[0])
    documents = jnp.asarray([[3, 3, 3, 3, 3, 7, 7]], jnp.int32)
    packed = jnp.asarray([[*TEXT[:5], *TEXT[:2]]])
    if refusal(model, packed, documents=documents) is None:
        both = model(packed, documents=documents)
        close(both[0, :5], alone[1])
        close(both[0, 5:], model(packed[:, 5:])[0])
    close(stacked(model, scanned(config))(tokens, valid=valid)[0], whole[0])
    rough = as_bfloat16(model)(tokens, valid=valid)
    assert rough.dtype == jnp.bfloat16
    close(rough[0], whole[0], HALF)
    with jax.enable_x64(True):
        close(model(tokens, valid=valid)[0], whole[0])
    assert model(tokens[:0], valid=valid[:0]).shape == (0, 7, V)


# Translators.

TRANSLATED = pairs(*TRANSLATORS)


def steps(model: Any, source: Any, target: Any) -> tuple[Any, Any, Any]:
    """Logits and weights token by token, then those of reordered rows for the last token."""
    order = [1, 2, 0, 1]
    memory, state = model.start(source, max_length=target.shape[1])
    found, seen = [], []
    for t in range(target.shape[1] - 1):
        logits, state, weights = model.step(target[:, t], state, memory)
        found.append(logits)
        seen.append(weights)
    if source.shape[0] == 0:
        return found, seen, None
    rows = jnp.asarray(order, jnp.int32)
    memory, state = reordered(memory, order), reordered(state, order)
    last, _, _ = model.step(target[rows, -1], state, memory)
    return jnp.stack(found, 1), jnp.stack(seen, 2), last


@pytest.mark.parametrize(("kind", "attention"), TRANSLATED)
def test_a_translator_writes_what_it_was_taught(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    if refusal(drawn_model, config) is not None:  # an encoder that may not look ahead
        config = config_of(kind, attention, but=("attention",))
        if refusal(drawn_model, config) is not None:
            return  # widths that a mechanism without projections cannot have
    model = drawn_model(config)
    source = np.tile(TEXT, (3, 1))
    source[1, :2] = source[2, 5:] = 0
    source, target = jnp.asarray(source), jnp.asarray(np.stack([TEXT[::-1][:4]] * 3))
    whole, weights = model(source, target, return_weights=True)
    alone, seen = model(jnp.asarray([TEXT[2:], TEXT[:5]]), target[:2], return_weights=True)
    close(whole[1], alone[0])
    close(whole[2], alone[1])
    close(weights[1, :, :, 2:], seen[0])
    found, looked, last = steps(model, source, target)
    close(found, whole[:, :-1])
    close(looked, weights[:, :, :-1])
    close(last, whole[jnp.asarray([1, 2, 0, 1]), -1])
    if hasattr(type(model), "extend"):
        memory, state = model.start(source, max_length=4)
        first, state, _ = model.extend(target[:, :3], state, memory)
        rest, _, _ = model.extend(target[:, 3:], state, memory)
        close(jnp.concatenate([first, rest], 1), whole)
    every, maps = model.all_weights(source, target)
    close(every, whole)
    close(maps[model.alignment_layer], weights)
    assert maps.shape[:3] == (model.layers, 3, model.heads)

    if scanned(config) is not None:
        close(stacked(model, scanned(config))(source, target), whole)
    half = as_bfloat16(model)
    rough = half(source, target)
    assert rough.dtype == jnp.bfloat16
    close(rough, whole, HALF)
    close(steps(half, source, target)[0], whole[:, :-1], HALF)
    with jax.enable_x64(True):
        close(model(source, target), whole)
        close(steps(model, source, target)[0], whole[:, :-1])
    assert model(source[:0], target[:0]).shape == (0, 4, V)
    steps(model, source[:0], target[:0])


# Classifiers of images.


@pytest.mark.parametrize(("kind", "attention"), pairs(*CLASSIFIERS))
def test_a_classifier_sees_each_image_alone(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    if refusal(drawn_model, config) is not None:
        return
    model = drawn_model(config)
    images = jnp.asarray(RNG.normal(size=(3, 6, 6, 1)), jnp.float32)
    whole = model(images)
    close(model(images[1:2])[0], whole[1])
    if scanned(config) is not None:
        close(stacked(model, scanned(config))(images), whole)
    rough = as_bfloat16(model)(images)
    assert rough.dtype == jnp.bfloat16
    close(rough, whole, HALF)
    with jax.enable_x64(True):
        close(model(images), whole)
    assert model(images[:0]).shape == (0, whole.shape[1])


def test_a_scanned_model_decodes_as_an_unrolled_one() -> None:
    for kind in DECODERS:
        config = config_of(kind)
        model = drawn_model(config)
        tokens, valid = rows_of_text()
        plain = decoded(model, tokens[:2], valid[:2])
        looped = decoded(stacked(model, scanned(config)), tokens[:2], valid[:2])
        close(looped[0], plain[0])
    assert isinstance(model, nnx.Module)
