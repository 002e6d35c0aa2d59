"""Guided attention: the links of a batch between tokens, the loss, and the pass it is read from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.teachers import GuidedConfig, OwnTeacherConfig
from attnzoo.models import TRANSLATORS
from attnzoo.tasks.guided import alignment_loss, contiguity_loss, guide, token_links
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
    return guide(drawn_model(config_of(kind, **more)), GuidedConfig(**settings), nnx.Rngs(3))


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_a_second_pass_has_read_the_whole_target(kind: str) -> None:
    plain = drawn_model(config_of(kind))
    if not plain.has_full_context:
        with pytest.raises(ValueError, match="has no second pass without a causal mask"):
            guide(plain, GuidedConfig(full_context=True), nnx.Rngs(0))
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
    assert guide(model, GuidedConfig(), nnx.Rngs(0)).credits == wanted
    assert guide(model, GuidedConfig(timing="predicted"), nnx.Rngs(0)).credits == "predicted"
    if wanted == "predicted":
        with pytest.raises(ValueError, match="attends before it reads a step's word"):
            guide(model, GuidedConfig(timing="input"), nnx.Rngs(0))


def test_own_heads_do_not_teach_the_second_pass() -> None:
    with pytest.raises(ValueError, match="the heads of the second pass learn from this loss alone"):
        GuidedConfig(teacher=OwnTeacherConfig(), full_context=True)
    assert dataclasses.replace(GuidedConfig(), full_context=True).full_context


def by_the_equation(weights: Any, target: Any, source: Any) -> float:
    """-sum_t log max_s of the weights smoothed by a 2 x 2 kernel of 1/2, cell by cell."""
    total = 0.0
    for rows, words, columns in zip(weights.astype(np.float64), target, source, strict=True):
        cell = lambda t, s: rows[t, s] if s < len(columns) and columns[s] else 0.0  # noqa: B023, E731
        for t in range(len(words) - 1):
            if words[t] and words[t + 1]:
                smooth = [
                    (cell(t, s) + cell(t, s + 1) + cell(t + 1, s) + cell(t + 1, s + 1)) / 2
                    for s in range(len(columns))
                ]
                total -= np.log(max(smooth))
    return total


def test_neighbours_of_neighbours_cost_nothing() -> None:
    def loss(columns: list[int], width: int = 4) -> float:
        weights = jnp.asarray(np.eye(width)[columns][None], jnp.float32)
        found, count = contiguity_loss(
            weights, jnp.ones((1, len(columns)), bool), jnp.ones((1, width), bool)
        )
        assert count == len(columns) - 1
        return float(found)

    assert loss([0, 1, 2, 3]) == loss([3, 2, 1, 0]) == loss([1, 1, 2, 2]) == loss([0], 1) == 0
    np.testing.assert_allclose(loss([0, 2, 3]), np.log(2), rtol=1e-6)
    random = np.random.default_rng(0)
    weights = random.dirichlet(np.ones(7), size=(3, 5)).astype(np.float32)
    target, source = random.random((3, 5)) < 0.8, np.arange(7) < [[7], [4], [1]]
    found, count = contiguity_loss(*map(jnp.asarray, (weights, target, source)))
    np.testing.assert_allclose(found, by_the_equation(weights, target, source), rtol=1e-5)
    assert int(count) == (target[:, 1:] & target[:, :-1]).sum()


@pytest.mark.parametrize("timing", ["predicted", "input"])
def test_contiguity_is_of_the_rows_of_words(timing: str) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(1, 2, 5)).astype(np.float32)
    sums = [
        alignment_loss(jnp.asarray(weights), BATCH, GuidedConfig(contiguity=weight), timing)
        for weight in (0.0, 0.3)
    ]
    first = int(timing == "input")
    words = np.ones((1, 4), bool)
    wanted = by_the_equation(weights[:, 0, first : first + 4], words, np.array([[1, 1, 1, 0]]))
    assert sums[0][1] == sums[1][1] == 3
    np.testing.assert_allclose(sums[1][0] - sums[0][0], 0.3 * wanted * 3 / 3, rtol=1e-4)


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_an_alignment_module_of_its_own(kind: str) -> None:
    """Chen et al. 2020: softmax of (z G^Q)(h G^K)^T, the mean of heads; nothing else learns."""
    if not drawn_model(config_of(kind)).takes_alignment_module:
        with pytest.raises(ValueError, match="has no layer to take it"):
            guided(kind, module=2)
        return
    model, layer, heads = guided(kind, module=2, layer=1), 1, 2
    source = np.array([[4, 5, 6, 2], [4, 5, 0, 0]], np.int32)
    target = np.array([[1, 7, 8, 9, 0], [1, 7, 8, 0, 0]], np.int32)

    def parts(model: Any, source: Any, target: Any) -> dict[str, Any]:
        logits, weights = model(source, target, return_weights=True)
        plain, maps = model(source, target, capture=True)
        encoded, valid, _ = model.encode(source)
        asking = model._asking(model._embed(target, None, "target", None), encoded, valid)
        block = model.decoder.blocks[layer]
        memory = block.prepare_cross(encoded, valid)
        own = block.cross_attention.attend(asking, memory, return_weights=True)[1]
        return {
            "weights": weights, "z": asking, "h": encoded, "valid": valid, "own": own,
            "cross": maps[f"decoder/{layer}/cross"], "logits": logits, "plain": plain,
        }  # fmt: skip

    found = computed(parts, model, source, target)
    # The states are those that the layer's own attention asks with; the translation is the same.
    np.testing.assert_allclose(found["own"], found["cross"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["logits"], found["plain"], rtol=1e-5, atol=1e-6)
    module = model.alignment_module
    q, k = (
        np.asarray(states, np.float64) @ np.asarray(part.kernel[...], np.float64)
        for states, part in ((found["z"], module.query), (found["h"], module.key))
    )
    wanted = np.zeros((2, 5, 4))
    width = q.shape[-1] // heads
    for b, t, n in np.ndindex(2, 5, heads):
        some = slice(n * width, (n + 1) * width)
        real = found["valid"][b]
        scores = np.exp(k[b, real, some] @ q[b, t, some] / np.sqrt(width))
        wanted[b, t, real] += scores / scores.sum() / heads
    np.testing.assert_allclose(found["weights"], wanted[:, None], rtol=2e-4, atol=1e-6)

    def slope(model: Any, source: Any, target: Any) -> Any:
        graph, state = nnx.split(model)

        def loss(state: Any) -> Any:
            return jnp.sum(nnx.merge(graph, state)(source, target, return_weights=True)[1] ** 2)

        return nnx.to_pure_dict(jax.grad(loss)(state))

    gradient = computed(slope, model, source, target)
    touched = {
        path[0].key
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]
        if np.any(leaf)
    }
    assert touched == {"alignment_module"}


@pytest.mark.parametrize(
    "settings", [{"full_context": True}, {"head": 1}, {"teacher": OwnTeacherConfig()}]
)
def test_a_module_has_weights_of_its_own(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="module=2 has weights of its own"):
        GuidedConfig(module=2, **settings)
