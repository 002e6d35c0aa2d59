"""Questions to text models: vectors in place of tokens, words taken away, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.explain import explain
from attnzoo.explain.tokens import table_rows, token_tables, with_vectors
from tests.explain.test_library_call import FAMILIES, SOURCE, TARGET, TOKENS, VALID, model

TEXTS = [name for name in FAMILIES if not name.startswith("vit")]


@pytest.mark.parametrize("name", TEXTS)
def test_the_tokens_own_vectors_give_the_models_answer(name: str) -> None:
    one = model(name)
    role = "source" if isinstance(FAMILIES[name].inputs, tuple) else "tokens"
    rest = (TARGET,) if role == "source" else ()
    ids = SOURCE if role == "source" else TOKENS
    # The vectors of other tokens, whatever the ids say; of a translator not at padding.
    other = jnp.where(SOURCE == 0, 0, 9 - SOURCE) if role == "source" else 9 - TOKENS
    for read in (ids, other):
        vectors = jnp.take(table_rows(token_tables(one)[role]), read, axis=0)
        copy, numbers = with_vectors(one, role, ids, vectors)
        got, want = copy(numbers, *rest), one(read, *rest)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_a_text_without_a_word_is_one_with_another_token() -> None:
    one = model("bert")
    units = np.asarray([[-1, 0, 0, -1, -1], [-1, 0, 1, 1, 2], [0, 1, 2, 3, -1]])
    found = explain(one, TOKENS, methods=["leave_one_out"], target=2, units=units, fill=4,
                    num_samples=1, valid=VALID)  # fmt: skip

    def log_probability(*rows: list[int]) -> np.ndarray:
        logits = one(jnp.int32(rows), valid=VALID[: len(rows)])
        return np.asarray(jax.nn.log_softmax(logits)[:, 2])

    whole = log_probability([3, 7, 5, 2, 7], [4, 4, 2, 9, 1])
    gone = log_probability([3, 4, 4, 2, 7], [4, 4, 4, 4, 1])
    scores = found.maps["leave_one_out"]
    # The first text has one word of two tokens, which share its fall alike.
    np.testing.assert_allclose(scores[0], [0, *[(whole - gone)[0] / 2] * 2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(scores[1, 2:4], [(whole - gone)[1] / 2] * 2, atol=1e-5)
    # One unit: the answer with it and without it, whatever comes first.
    want = np.exp([whole[0], gone[0]]).mean()
    areas = found.faithfulness["leave_one_out"]
    for area in areas:
        np.testing.assert_allclose(area[0], want, rtol=1e-4)


def test_a_padded_text_is_explained_as_it_is_alone() -> None:
    methods = ["rollout_discarded", "attention_gradcam", "gradcam", "smooth_cdam", "smooth_grad"]
    one, settings = model("bert"), {"methods": methods, "num_samples": 2}
    padded = explain(one, TOKENS, target=2, valid=VALID, **settings)
    alone = explain(one, TOKENS[:1, :3], target=2, valid=VALID[:1, :3], **settings)
    for name in methods:
        want = alone.maps[name][0]
        size = np.abs(want).max()
        np.testing.assert_allclose(padded.maps[name][0, :3], want, rtol=1e-3, atol=1e-4 * size)
        for got, area in zip(padded.faithfulness[name], alone.faithfulness[name]):
            np.testing.assert_allclose(got[0], area[0], rtol=1e-4)


def test_the_token_to_explain_is_asked_for_or_known() -> None:
    with pytest.raises(ValueError, match="at is wanted, the token to explain"):
        explain(model("bert_tags"), TOKENS)
    with pytest.raises(ValueError, match="one answer of the whole text"):
        explain(model("bert"), TOKENS, at=1)
    with pytest.raises(ValueError, match="at=5; wanted 0 to 4"):
        explain(model("gpt2"), TOKENS, at=5)
    with pytest.raises(ValueError, match="every known target token is explained"):
        explain(model("luong_multi_head"), (SOURCE, TARGET), target=1)
    # Of a causal model the last token that is no padding.
    found = explain(model("gpt2"), TOKENS, methods=["attention_mean"], faithfulness=False,
                    valid=VALID)  # fmt: skip
    assert found.question.at.tolist() == [2, 4, 3]
    said = jnp.take_along_axis(model("gpt2")(TOKENS), found.question.at[:, None, None], axis=1)
    assert found.target.tolist() == said[:, 0].argmax(axis=-1).tolist()


def test_raw_attention_is_that_of_the_layer_and_head_asked_for() -> None:
    one, settings = model("bert"), {"methods": ["attention_mean"], "faithfulness": False}
    _, maps = one(TOKENS, valid=VALID, capture=True)
    found = explain(one, TOKENS, layer=0, head=1, valid=VALID, **settings)
    np.testing.assert_allclose(
        found.maps["attention_mean"], maps["encoder/0/self"][:, 1, 0], rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match="layer=2: there are 1 layers, 0 to 0"):
        explain(one, TOKENS, layer=2, **settings)
    with pytest.raises(ValueError, match="head=-1: there are 2 heads, 0 to 1"):
        explain(one, TOKENS, head=-1, **settings)


def test_models_without_tokens_have_no_tables() -> None:
    assert token_tables(nnx.Linear(2, 2, rngs=nnx.Rngs(0))) == {}
    with pytest.raises(NotImplementedError, match="Linear is not explained: wanted a ViT"):
        explain(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), TOKENS)
