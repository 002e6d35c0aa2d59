"""Every model with every attention it takes: a sequence means the same however it is read.

At once or some tokens at a time, alone or padded or packed behind another, in another order of
beams, in a loop over layers; in bfloat16, under 64-bit types, and when there is nothing to read.
What a mechanism cannot do it refuses in one line. Each use is compiled once for all shapes that it
meets; dtypes and empty batches are looked at in traces.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import (
    MODELS,
    REGISTRIES,
    V,
    as_bfloat16,
    close,
    compiled,
    computed,
    config_of,
    numbers,
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
LENGTH = len(TEXT)
SAME, OTHERS = np.asarray([0, 1], np.int32), np.asarray([1, 0], np.int32)
"""Orders of two rows."""


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


def rows(tree: Any, order: Any) -> Any:
    """A state or memory with its rows gathered, as beam search does it."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=0), tree)


ALONE = np.stack([TEXT[2:], TEXT[:5]])
PACKED = np.asarray([[*TEXT[:5], *TEXT[2:]]], np.int32)
DOCUMENTS = np.asarray([[3] * 5 + [7] * 5], np.int32)


def with_loop(model: Any, config: Any) -> tuple[Any, Any]:
    """The model, and the one with its layers in a loop, or itself if it has no such thing."""
    looped = scanned(config)
    return model, model if looped is None else stacked(model, looped)


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


def begun(model: Any, tokens: Any, valid: Any) -> Any:
    return model.decode(tokens[:, :1], model.start(len(valid), LENGTH), valid)


def continued(model: Any, tokens: Any, state: Any, valid: Any, order: Any) -> Any:
    state, valid = rows((state, valid), order)
    return model.decode(tokens, state, valid)


def decoding(following: Any, state: Any, tokens: Any, valid: Any) -> dict[str, Any]:
    """Logits of three tokens behind the first one, then of three in exchanged rows."""
    same, others = SAME[: len(valid)], OTHERS[: len(valid)]
    second, state = following(tokens[:, 1:4], state, valid, same)
    last, _ = following(tokens[others, 4:], state, valid, others)
    return {"second": second, "last": last}


def decoded(model: Any, tokens: Any, valid: Any) -> dict[str, Any]:
    first, state = begun(model, tokens, valid)
    return {"first": first} | decoding(functools.partial(continued, model), state, tokens, valid)


def reading(model: Any, tokens: Any, valid: Any) -> dict[str, Any]:
    return {"whole": model(tokens, valid=valid)}


def alone_and_packed(models: tuple[Any, Any], tokens: Any, valid: Any) -> dict[str, Any]:
    """The whole text; parts alone, and in a loop, for neither changes anything; and packed."""
    model, loop = models
    found = reading(model, tokens, valid) | {"alone": loop(jnp.asarray(ALONE))}
    if "documents" in inspect.signature(type(model).__call__).parameters:
        pack = lambda: model(jnp.asarray(PACKED), documents=jnp.asarray(DOCUMENTS))  # noqa: E731
        refusal(lambda: found.update(packed=pack()))
    return found


def agree_alone_and_packed(found: dict[str, Any]) -> None:
    whole, alone = found["whole"], found["alone"]
    if whole.ndim == 2:  # one answer a text
        close(whole[1:], alone)
    else:
        close(whole[1, 2:], alone[0])
        close(whole[2, :5], alone[1])
    if "packed" in found:
        close(found["packed"][0, :5], alone[1])
        close(found["packed"][0, 5:], alone[0])


@pytest.mark.parametrize(("kind", "attention"), pairs(*DECODERS))
def test_a_decoder_reads_a_text_alike_in_every_way(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model = unless_refused(config)
    if model is None:
        return  # no causal form
    tokens, valid = rows_of_text()

    def begin(models: tuple[Any, Any], *text: Any) -> Any:
        first, state = begun(models[0], *(x[:2] for x in text))
        return alone_and_packed(models, *text) | {"first": first}, state

    found, state = compiled(begin, with_loop(model, config))(tokens, valid)
    found |= decoding(compiled(continued, model), state, tokens[:2], valid[:2])
    found = numbers(found)
    agree_alone_and_packed(found)
    whole = found["whole"]
    close(found["first"][0], whole[0, :1])
    close(found["second"][0], whole[0, 1:4])
    close(found["second"][1, 1:], whole[1, 2:4])
    close(found["last"], whole[OTHERS, 4:])
    in_other_dtypes(found, reading, model, tokens, valid)
    in_other_dtypes(found, decoded, model, tokens[:2], valid[:2])


# Encoders of text.


@pytest.mark.parametrize(("kind", "attention"), pairs(*ENCODERS))
def test_an_encoder_reads_a_text_alike_in_every_way(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model = unless_refused(config)
    if model is None:
        return
    tokens, valid = rows_of_text()
    found = computed(alone_and_packed, with_loop(model, config), tokens, valid)
    agree_alone_and_packed(found)
    in_other_dtypes(found, reading, model, tokens, valid)


# Translators.


def teaching(model: Any, source: Any, target: Any) -> dict[str, Any]:
    logits, weights = model(source, target, return_weights=True)
    return {"whole": logits, "weights": weights}


def started(model: Any, source: Any) -> Any:
    return model.start(source, max_length=4)


def stepped(model: Any, tokens: Any, state: Any, memory: Any, order: Any) -> Any:
    state, memory = rows((state, memory), order)
    logits, state, weights = model.step(tokens, state, memory)
    return logits, state, weights, memory


ORDERS = np.asarray([[0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 2, 1]], np.int32)
"""Where the rows of each step come from; a beam may be followed twice."""


def stepping(step: Any, memory: Any, state: Any, target: Any) -> dict[str, Any]:
    """Logits and weights token by token, of reordered rows for the last token."""
    found = {}
    for t, order in enumerate(ORDERS[-target.shape[1] :, : len(target)]):
        result = step(target[order, t], state, memory, order)
        found[f"logits {t}"], state, found[f"weights {t}"], memory = result
    return found


def written(model: Any, source: Any, target: Any) -> dict[str, Any]:
    return stepping(functools.partial(stepped, model), *started(model, source), target)


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
    source = np.tile(TEXT, (3, 1))
    source[1, :2] = source[2, 5:] = 0
    target = np.stack([TEXT[::-1][:4]] * 3)

    def begin(models: tuple[Any, Any], *texts: Any) -> Any:
        model, loop = models
        alone = teaching(loop, jnp.asarray(ALONE), texts[1][:2])
        found = teaching(model, *texts), alone, model.all_weights(*texts)
        return found, started(model, texts[0])

    found, (memory, state) = compiled(begin, with_loop(model, config))(source, target)
    taught, alone, (every, maps) = numbers(found)
    whole, weights = taught["whole"], taught["weights"]
    # Alone, and in a loop: neither changes anything.
    close(whole[1:], alone["whole"])
    close(weights[1, :, :, 2:], alone["weights"][0])
    close(weights[2, :, :, :5], alone["weights"][1])
    steps = stepping(compiled(stepped, model), memory, state, target)
    for t, order in enumerate(ORDERS):
        close(steps[f"logits {t}"], whole[order, t])
        close(steps[f"weights {t}"], weights[order, :, t])
    close(every, whole)
    close(maps[model.alignment_layer], weights)
    assert maps.shape[:3] == (model.layers, 3, model.heads)
    if hasattr(type(model), "extend"):
        extend = compiled(lambda model, *given: model.extend(*given), model)
        first, state, _ = extend(target[:, :2], state, memory)
        rest, _, _ = extend(target[:, 2:], state, memory)
        close(first, whole[:, :2])
        close(rest, whole[:, 2:])
    in_other_dtypes(taught, teaching, model, source, target)
    in_other_dtypes(steps, written, model, source, target[:, :2])


# Classifiers of images.


def seeing(model: Any, images: Any) -> dict[str, Any]:
    return {"logits": model(images)}


@pytest.mark.parametrize(("kind", "attention"), pairs(*CLASSIFIERS))
def test_a_classifier_sees_each_image_alone(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    model = unless_refused(config)
    if model is None:
        return
    images = RNG.normal(size=(3, 8, 8, 1)).astype(np.float32)

    def everything(models: tuple[Any, Any], images: Any) -> Any:
        model, loop = models
        return seeing(model, images), seeing(loop, images[1:2])

    whole, alone = computed(everything, with_loop(model, config), images)
    close(alone["logits"][0], whole["logits"][1])
    in_other_dtypes(whole, seeing, model, images)
