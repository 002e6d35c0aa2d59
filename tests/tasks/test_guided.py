"""Guided attention: the links of a batch between tokens, the loss, and the pass it is read from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.config.teachers import GuidedConfig, OwnTeacherConfig
from attnzoo.models import TRANSLATORS
from attnzoo.tasks.guided import alignment_loss, guide, token_links
from tests.models.products import computed, config_of, drawn_model

# Source words "ab" (two tokens), "c", then the end; target words "x", "yz" (two tokens), "w".
BATCH = {
    "source": np.array([[4, 5, 6, 2]], np.int32),
    "source_words": np.array([[0, 0, 1, -1]], np.int32),
    "target": np.array([[1, 7, 8, 9, 10, 2]], np.int32),
    "target_words": np.array([[0, 1, 1, 2, -1]], np.int32),
    "links": np.zeros((1, 5, 4), np.uint8),
}
BATCH["links"][0, 0, 0] = 3  # x - ab
BATCH["links"][0, 1, [0, 1]] = 1  # yz - ab c
BATCH["links"][0, 2, 1] = 2  # of the other direction: teaches no target word
WANTED = np.array(
    [[1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3, 0], [0] * 4, [0] * 4]
)


def test_links_between_tokens_by_hand() -> None:
    np.testing.assert_allclose(token_links(BATCH)[0], WANTED, rtol=1e-6)
    ends = WANTED.copy()
    ends[3, 3] = 1
    np.testing.assert_allclose(token_links(BATCH, "eos")[0], ends, rtol=1e-6)


@pytest.mark.parametrize("timing", ["predicted", "input"])
def test_the_loss_is_of_the_rows_and_the_head(timing: str) -> None:
    config = GuidedConfig(head=1)
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(1, 2, 5)).astype(np.float32)
    first = int(timing == "input")
    rows = weights[0, 1, first : first + 3].astype(np.float64)
    total, count = alignment_loss(jnp.asarray(weights), BATCH, config, timing)
    np.testing.assert_allclose(total, -np.sum(WANTED[:3] * np.log(rows)), rtol=1e-5)
    assert count == 3
    gradient = jax.grad(lambda w: alignment_loss(w, BATCH, config, timing)[0])(jnp.asarray(weights))
    touched = set(zip(*(i.tolist() for i in np.nonzero(np.asarray(gradient[0]).any(axis=2)))))
    assert touched == {(1, first + t) for t in range(3)}


def test_own_heads_teach_without_a_gradient_of_their_own() -> None:
    config = GuidedConfig(teacher=OwnTeacherConfig(), head=0)
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(1, 2, 5)).astype(np.float32)
    gradient = jax.grad(lambda w: alignment_loss(w, BATCH, config, "input")[0])(
        jnp.asarray(weights)
    )
    assert (np.asarray(gradient[0, 1]) == 0).all()
    mean = weights[0].mean(axis=0)
    np.testing.assert_allclose(gradient[0, 0, :4], -mean[:4] / weights[0, 0, :4], rtol=1e-5)
    assert (np.asarray(gradient[0, 0, 4]) == 0).all()  # the end of the target


def guided(kind: str, **settings: Any) -> Any:
    more = {"decoder_layers": 2} if kind in ("transformer", "t5") else {}
    return guide(drawn_model(config_of(kind, **more)), GuidedConfig(**settings))


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_a_second_pass_has_read_the_whole_target(kind: str) -> None:
    plain = drawn_model(config_of(kind))
    if not plain.has_full_context:
        with pytest.raises(ValueError, match="has no second pass without a causal mask"):
            guide(plain, GuidedConfig(full_context=True))
        return
    model = guided(kind, full_context=True, layer=1)
    source = np.array([[4, 5, 6, 2], [4, 5, 0, 0]], np.int32)
    target = np.array([[1, 7, 8, 9, 0], [1, 7, 8, 0, 0]], np.int32)
    other = target.copy()
    other[0, 3] = 10

    def both(model: Any, source: Any, target: Any, other: Any) -> dict[str, Any]:
        found = {}
        for name, ids in (("first", target), ("other", other), ("short", target[1:, :3])):
            given = source[1:, :2] if name == "short" else source
            logits, weights = model(given, ids, return_weights=True)
            found |= {f"{name} logits": logits, f"{name} weights": weights}
        found["all"] = model.all_weights(source, target)[1]
        return found

    found = computed(both, model, source, target, other)
    changed = lambda name: ~np.isclose(found[f"first {name}"][0], found[f"other {name}"][0])  # noqa: E731
    # The last word is read by all rows of weights, and by no logits before it.
    assert changed("weights").any(axis=(0, 2))[:4].all()
    assert not changed("logits")[:3].any()
    np.testing.assert_allclose(found["all"][1], found["first weights"], rtol=1e-5, atol=1e-6)
    # Padding of either side is not read.
    np.testing.assert_allclose(
        found["first weights"][1, :, :3, :2], found["short weights"][0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"layer": 2}, "the decoder's layers are 0 .. 1"), ({"head": 2}, "the heads are 0 .. 1")],
)
def test_a_head_that_is_not_there(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        guided("transformer", **settings)


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_the_step_that_has_read_the_word_learns(kind: str) -> None:
    model: Any = drawn_model(config_of(kind))
    wanted = "input" if model.reads_before_attending else "predicted"
    assert guide(model, GuidedConfig()).credits == wanted
    assert guide(model, GuidedConfig(timing="predicted")).credits == "predicted"
    if wanted == "predicted":
        with pytest.raises(ValueError, match="attends before it reads a step's word"):
            guide(model, GuidedConfig(timing="input"))


def test_own_heads_do_not_teach_the_second_pass() -> None:
    with pytest.raises(ValueError, match="the heads of the second pass learn from this loss alone"):
        GuidedConfig(teacher=OwnTeacherConfig(), full_context=True)
    assert dataclasses.replace(GuidedConfig(), full_context=True).full_context
