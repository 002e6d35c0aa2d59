"""Every model with every attention it takes: a sequence means the same however it is read.

At once or some tokens at a time, alone or padded or packed behind another, in another order of
beams, in a loop over layers; in bfloat16, under 64-bit types, and when there is nothing to read.
What a mechanism cannot do it refuses in one line. One program a pair is compiled; dtypes and empty
batches are looked at in traces.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import (
    MODELS,
    REGISTRIES,
    Both,
    V,
    as_bfloat16,
    close,
    computed,
    config_of,
    pairs,
    refusal,
    scanned,
    stacked,
    traced,
    unless_refused,
)

from attnzoo.models import CAPTIONERS, CLASSIFIERS, DECODERS, DETECTORS, ENCODERS, TRANSLATORS

RNG = np.random.default_rng(0)
TEXT = RNG.integers(4, V, 7, dtype=np.int32)
"""What all rows hold, or a part of it."""
BLOCKS = (1, 3, 3)


def test_every_model_of_the_config_is_in_a_registry_and_here() -> None:
    # Those that read pictures are tested by test_sources, test_detr and test_two_towers.
    assert set(REGISTRIES | DETECTORS | CAPTIONERS) == set(MODELS)


def rows_of_text() -> tuple[np.ndarray, np.ndarray]:
    """The whole text, the last five tokens padded on the left, the first five on the right."""
    tokens = np.tile(TEXT, (3, 1))
    valid = np.ones((3, 7), bool)
    tokens[1, :2], tokens[2, 5:] = 1, 2
    valid[1, :2] = valid[2, 5:] = False
    return tokens, valid


def rows(tree: Any, order: list[int]) -> Any:
    """A state or memory with its rows gathered, as beam search does it."""
    index = jnp.asarray(order, jnp.int32)
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), tree)


ALONE = np.stack([TEXT[2:], TEXT[:5]])
PACKED = np.asarray([[*TEXT[:5], *TEXT[:2]]], np.int32)
DOCUMENTS = np.asarray([[3, 3, 3, 3, 3, 7, 7]], np.int32)


def in_other_dtypes(found: dict[str, Any], function: Any, model: Any, *arguments: Any) -> None:
    """bfloat16 parameters under 64-bit types, and no rows: bfloat16 results and float32 weights of
    the shapes ``found``.
    """
    with jax.enable_x64(True):
        half = traced(function, as_bfloat16(model), *(x[:0] for x in arguments))
    for name, leaf in half.items():
        wanted = jnp.float32 if name.startswith("weights") else jnp.bfloat16
        assert leaf.dtype == wanted, name
        assert leaf.shape == (0, *found[name].shape[1:]), name


# Language models.


def decoding(model: Any, tokens: Any, valid: Any) -> dict[str, Any]:
    """Logits block by block, with the rows exchanged before the last block."""
    order = [1, 0, 1] if tokens.shape[0] else []
    state, found, first = model.start(tokens.shape[0], tokens.shape[1]), [], 0
    for size in BLOCKS[:-1]:
        logits, state = model.decode(tokens[:, first : first + size], state, valid)
        found.append(logits)
        first += size
    tokens, state, valid = rows((tokens, state, valid), order)
    last, _ = model.decode(tokens[:, first:], state, valid)
    return {"blocks": jnp.concatenate(found, 1), "last": last}


def reading(model: Any, tokens: Any, valid: Any) -> dict[str, Any]:
    return {"whole": model(tokens, valid=valid)}


@pytest.mark.parametrize(("kind", "attention"), pairs(*DECODERS))
def test_a_decoder_reads_a_text_alike_in_every_way(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model, looped = unless_refused(config), scanned(config)
    if model is None:
        return  # no causal form
    tokens, valid = rows_of_text()
    loop = stacked(model, looped)
    packs = refusal(traced, lambda m, t, d: m(t, documents=d), model, PACKED, DOCUMENTS) is None

    def everything(model: Any, loop: Any) -> dict[str, Any]:
        found = reading(model, jnp.asarray(tokens), jnp.asarray(valid))
        found |= decoding(model, jnp.asarray(tokens[:2]), jnp.asarray(valid[:2]))
        found |= {"alone": model(jnp.asarray(ALONE)), "looped": loop(jnp.asarray(tokens))}
        if packs:
            found["packed"] = model(jnp.asarray(PACKED), documents=jnp.asarray(DOCUMENTS))
        return found

    found = computed(lambda both: everything(*both), Both(model, loop))
    whole, alone = found["whole"], found["alone"]
    close(whole[1, 2:], alone[0])
    close(whole[2, :5], alone[1])
    close(found["blocks"][0], whole[0, :4])
    close(found["blocks"][1, 2:], whole[1, 2:4])
    close(found["last"], whole[[1, 0, 1], 4:])
    close(found["looped"][0], whole[0])
    if packs:
        close(found["packed"][0, :5], alone[1])
        close(found["packed"][0, 5:], alone[1, :2])
    in_other_dtypes(found, reading, model, tokens, valid)
    in_other_dtypes(found, decoding, model, tokens[:2], valid[:2])


# Encoders of text.


@pytest.mark.parametrize(("kind", "attention"), pairs(*ENCODERS))
def test_an_encoder_reads_a_text_alike_in_every_way(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model = unless_refused(config)
    if model is None:
        return
    tokens, valid = rows_of_text()
    looped = scanned(config)
    loop = model if looped is None else stacked(model, looped)
    takes = "documents" in inspect.signature(type(model).__call__).parameters
    refused = lambda: refusal(traced, lambda m, t, d: m(t, documents=d), model, PACKED, DOCUMENTS)  # noqa: E731
    packs = takes and refused() is None

    def everything(model: Any, loop: Any) -> dict[str, Any]:
        found = reading(model, jnp.asarray(tokens), jnp.asarray(valid))
        found |= {"alone": model(jnp.asarray(ALONE)), "looped": loop(jnp.asarray(tokens))}
        if packs:
            found["packed"] = model(jnp.asarray(PACKED), documents=jnp.asarray(DOCUMENTS))
            found["second"] = model(jnp.asarray(PACKED[:, 5:]))
        return found

    found = computed(lambda both: everything(*both), Both(model, loop))
    whole, alone = found["whole"], found["alone"]
    if whole.ndim == 2:  # one answer a text
        close(whole[1:], alone)
    else:
        close(whole[1, 2:], alone[0])
        close(whole[2, :5], alone[1])
    close(found["looped"][0], whole[0])
    if packs:
        close(found["packed"][0, :5], alone[1])
        close(found["packed"][0, 5:], found["second"][0])
    in_other_dtypes(found, reading, model, tokens, valid)


# Translators.


def teaching(model: Any, source: Any, target: Any) -> dict[str, Any]:
    logits, weights = model(source, target, return_weights=True)
    return {"whole": logits, "weights": weights}


def stepping(model: Any, source: Any, target: Any) -> dict[str, Any]:
    """Logits and weights token by token, then those of reordered rows for the last token."""
    order = [1, 2, 0, 1] if source.shape[0] else []
    memory, state = model.start(source, max_length=target.shape[1])
    found, seen = [], []
    for t in range(target.shape[1] - 1):
        logits, state, weights = model.step(target[:, t], state, memory)
        found.append(logits)
        seen.append(weights)
    target, state, memory = rows((target, state, memory), order)
    last, _, _ = model.step(target[:, -1], state, memory)
    return {"steps": jnp.stack(found, 1), "weights": jnp.stack(seen, 2), "last": last}


@pytest.mark.parametrize(("kind", "attention"), pairs(*TRANSLATORS))
def test_a_translator_writes_what_it_was_taught(kind: str, attention: str) -> None:
    # An encoder may not look ahead, or a decoder only so.
    for but in ((), ("attention",), ("decoder_attention",)):
        config = config_of(kind, attention, but=but)
        model = unless_refused(config)
        if model is not None:
            break
    else:
        return  # widths that a mechanism without projections cannot have
    loop = model if scanned(config) is None else stacked(model, scanned(config))
    source = np.tile(TEXT, (3, 1))
    source[1, :2] = source[2, 5:] = 0
    target = np.stack([TEXT[::-1][:3]] * 3)

    def everything(model: Any, loop: Any) -> dict[str, Any]:
        given, wanted = jnp.asarray(source), jnp.asarray(target)
        found = teaching(model, given, wanted)
        found["alone"], found["seen"] = model(jnp.asarray(ALONE), wanted[:2], return_weights=True)
        found["stepped"] = stepping(model, given, wanted)
        found["every"], found["maps"] = model.all_weights(given, wanted)
        found["looped"] = loop(given, wanted)
        if hasattr(type(model), "extend"):
            memory, state = model.start(given, max_length=3)
            first, state, _ = model.extend(wanted[:, :2], state, memory)
            rest, _, _ = model.extend(wanted[:, 2:], state, memory)
            found["blocks"] = jnp.concatenate([first, rest], 1)
        return found

    found = computed(lambda both: everything(*both), Both(model, loop))
    whole, weights, stepped = found["whole"], found["weights"], found["stepped"]
    close(whole[1], found["alone"][0])
    close(whole[2], found["alone"][1])
    close(weights[1, :, :, 2:], found["seen"][0])
    close(stepped["steps"], whole[:, :-1])
    close(stepped["weights"], weights[:, :, :-1])
    close(stepped["last"], whole[[1, 2, 0, 1], -1])
    close(found["every"], whole)
    close(found["maps"][model.alignment_layer], weights)
    assert found["maps"].shape[:3] == (model.layers, 3, model.heads)
    close(found["looped"], whole)
    if "blocks" in found:
        close(found["blocks"], whole)
    in_other_dtypes(found, teaching, model, source, target)
    in_other_dtypes(found["stepped"], stepping, model, source, target)


# Classifiers of images.


def seeing(model: Any, images: Any) -> dict[str, Any]:
    return {"logits": model(images)}


@pytest.mark.parametrize(("kind", "attention"), pairs(*CLASSIFIERS))
def test_a_classifier_sees_each_image_alone(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model = unless_refused(config)
    if model is None:
        return
    loop = model if scanned(config) is None else stacked(model, scanned(config))
    images = RNG.normal(size=(3, 8, 8, 1)).astype(np.float32)

    def everything(model: Any, loop: Any) -> dict[str, Any]:
        given = jnp.asarray(images)
        return {"whole": model(given), "one": model(given[1:2]), "looped": loop(given)}

    found = computed(lambda both: everything(*both), Both(model, loop))
    close(found["one"][0], found["whole"][1])
    close(found["looped"], found["whole"])
    in_other_dtypes({"logits": found["whole"]}, seeing, model, images)
