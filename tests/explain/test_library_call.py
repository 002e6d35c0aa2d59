"""Every explanation of every kind of model: it answers, or says in one line why not."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import models
from attnzoo.config import bert, gpt2, llama, recommender, rnn_classifier, t5, transformer, vit
from attnzoo.config.loader import load
from attnzoo.config.model import BahdanauConfig, LuongConfig
from attnzoo.explain import EXPLANATIONS, Explained, Question, explain
from attnzoo.explain.explanations import TWO_STACKS

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(3, 4, 4, 1)), jnp.float32)
TOKENS = jnp.int32([[3, 7, 5, 2, 7], [4, 4, 2, 9, 1], [8, 6, 5, 3, 9]])
VALID = jnp.arange(5)[None] < jnp.asarray([3, 5, 4])[:, None]
SOURCE = jnp.int32([[5, 2, 0, 0], [4, 5, 6, 2], [7, 7, 2, 0]])
TARGET = jnp.int32([[1, 4, 2, 0], [1, 6, 7, 2], [1, 9, 2, 0]])
TEXT = ["dim=6", "hidden=5", "max_length=7", "dropout=0"]
HEADS = "attention.num_heads=2"
BASE = ["layers=1", HEADS]
IMAGE = ["image_size=4", "patch=2", "channels=1", "dim=6", "hidden=5", "layers=2"]
PAIR = ["encoder_layers=1", "attention.num_heads=2", "cross_attention.num_heads=3"]


class Family(NamedTuple):
    """A small model, what it reads, and the explanations that do not apply to it."""

    make: Callable[[Any], Any]
    config: type
    settings: list[str]
    inputs: Any
    keywords: dict[str, Any]
    skipped: set[str]


def family(make: Any, config: type, settings: list[str], *skipped: str, **keywords: Any) -> Family:
    kind: dict[Any, Any] = {
        models.ViT: (IMAGES, lambda c: make(c, 3, rngs=nnx.Rngs(1))),
        models.Bert: (TOKENS, lambda c: make(c, 11, rngs=nnx.Rngs(1))),
        models.RnnClassifier: (TOKENS, lambda c: make(c, 11, rngs=nnx.Rngs(1))),
        models.GPT2: (TOKENS, lambda c: make(c, 11, rngs=nnx.Rngs(1))),
        models.Recommender: (TOKENS, lambda c: make(c, 11, rngs=nnx.Rngs(1))),
        models.Llama: (TOKENS, lambda c: make(c, 11, rngs=nnx.Rngs(1))),
    }
    inputs, build = kind.get(make, ((SOURCE, TARGET), lambda c: make(c, 11, 11, rngs=nnx.Rngs(1))))
    return Family(build, config, settings, inputs, keywords, set(skipped))


ONE_STACK = ("rollout", "rollout_discarded", "gradient_rollout", "flow")
OF_GRADIENTS = ("gradient_rollout", "relevance", "attention_gradcam")
OF_BLOCKS = ("gradcam", "cdam", "smooth_cdam", "integrated_cdam", "attn_lrp")
FAMILIES = {
    "vit": family(
        models.ViT,
        vit.ViTConfig,
        [*IMAGE, HEADS, "distillation=head", "registers=1", "pooling=class"],
    ),
    "vit_mean": family(
        models.ViT, vit.ViTConfig, [*IMAGE, HEADS, "pooling=mean"], "attention_gradcam"
    ),
    "vit_linear": family(
        models.ViT,
        vit.ViTConfig,
        [*IMAGE, "attention.kind=linear", HEADS],
        *OF_GRADIENTS,
        "attn_lrp",
    ),
    "bert": family(
        models.Bert, bert.BertConfig, [*TEXT, *BASE, "head=sequence", "num_classes=3"], valid=VALID
    ),
    "bert_tags": family(models.Bert, bert.BertConfig, [*TEXT, *BASE, "head=token", "num_classes=3"],
                        at=1),
    "gpt2": family(models.GPT2, gpt2.GPT2Config, [*TEXT, *BASE], valid=VALID),
    "llama_grouped": family(
        models.Llama,
        llama.LlamaConfig,
        ["dim=8", "hidden=5", "layers=1", "max_length=7", "attention.num_heads=4",
         "attention.num_kv_heads=2"],
        at=jnp.int32([2, 4, 1]),
    ),
    "rnn_classifier": family(
        models.RnnClassifier,
        rnn_classifier.RnnClassifierConfig,
        ["embedding=5", "hidden=3", "num_classes=3", "ends=false"],
        *ONE_STACK,
        "relevance",
        *OF_BLOCKS,
        valid=VALID,
    ),
    "recommender": family(
        models.Recommender, recommender.RecommenderConfig, [*TEXT, *BASE], valid=VALID
    ),
    "transformer": family(
        models.Transformer,
        transformer.TransformerConfig,
        ["dim=6", "hidden=5", "dropout=0", "decoder_layers=1", "norm=pre", *PAIR],
        *ONE_STACK,
    ),
    "t5": family(
        models.T5,
        t5.T5Config,
        ["dim=6", "hidden=5", "dropout=0", "decoder_layers=1", "buckets=4", "max_distance=8",
         *PAIR],
        *ONE_STACK,
    ),
    "bahdanau": family(
        models.BahdanauSeq2Seq,
        BahdanauConfig,
        ["hidden=5", "embedding=4", "maxout=3"],
        *ONE_STACK,
        *OF_GRADIENTS,
        *OF_BLOCKS,
    ),
    "luong_multi_head": family(
        models.LuongSeq2Seq,
        LuongConfig,
        ["hidden=6", "embedding=4", "layers=1", "attention.kind=multi_head",
         "attention.num_heads=2"],
        *ONE_STACK,
        *OF_GRADIENTS,
        *OF_BLOCKS,
    ),
}  # fmt: skip


@functools.cache
def model(name: str, *more: str) -> Any:
    """Its weights are moved off their start, where heads are 0 and all else is near it."""
    found = FAMILIES[name].make(
        load(FAMILIES[name].config, None, [*FAMILIES[name].settings, *more])
    )
    graph, state = nnx.split(found)
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(4)

    def moved(leaf: Any) -> Any:
        return leaf + jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype)

    return nnx.merge(graph, jax.tree.unflatten(tree, [moved(leaf) for leaf in leaves]))


def ask(name: str, inputs: Any = None, found: Any = None, **settings: Any) -> Explained:
    one = FAMILIES[name]
    settings = {"methods": list(EXPLANATIONS), "num_samples": 2, "faithfulness": False} | settings
    given = one.inputs if inputs is None else inputs
    return explain(model(name) if found is None else found, given, **one.keywords, **settings)


@functools.cache
def asked(name: str) -> Explained:
    return ask(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_explanation_answers_or_is_refused_in_one_line(name: str) -> None:
    result, one = asked(name), FAMILIES[name]
    assert set(result.skipped) == one.skipped
    assert {*result.maps} == {*EXPLANATIONS} - one.skipped
    for reason in result.skipped.values():
        assert len(reason) > 20
        assert "\n" not in reason
    if isinstance(one.inputs, tuple):
        rows, columns = TARGET[:, 1:] != 0, SOURCE != 0
        real = np.asarray(rows[:, :, None] & columns[:, None])
    elif one.inputs is IMAGES:
        real = np.ones((3, 4), bool)
    else:
        at, valid = one.keywords.get("at"), one.keywords.get("valid")
        real = np.ones(TOKENS.shape, bool) if valid is None else np.asarray(valid)
        if name != "bert_tags" and at is not None:
            real = real & (np.arange(5) <= np.asarray(at)[:, None])
    for method, scores in result.maps.items():
        assert scores.shape == real.shape, method
        assert np.isfinite(scores).all(), method
        assert (scores[~real] == 0).all(), method
        if "gradcam" not in method:  # which may find nothing that speaks for the answer
            assert all((row != 0).any() for row in scores), method


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_does_not_depend_on_its_batch_and_comes_twice_the_same(name: str) -> None:
    others = jax.tree.map(lambda x: x.at[1:].set(x[1:][::-1]), FAMILIES[name].inputs)
    target = None if isinstance(FAMILIES[name].inputs, tuple) else asked(name).target
    again, moved = ask(name, target=target), ask(name, others, target=target)
    for method, scores in asked(name).maps.items():
        np.testing.assert_array_equal(scores, again.maps[method], err_msg=method)
        size = np.abs(scores[0]).max()
        np.testing.assert_allclose(
            moved.maps[method][0], scores[0], rtol=1e-4, atol=1e-5 * size, err_msg=method
        )


SCANNED = ("vit_mean",)


@pytest.mark.parametrize("name", SCANNED)
def test_a_scanned_model_is_explained_as_an_unrolled_one(name: str) -> None:
    plain, scanned = model(name), model(name, "scan=true", "remat=full")
    blocks = "encoder"
    # The same parameters, those of the blocks one behind another.
    state = nnx.to_pure_dict(nnx.state(plain))
    layers = state[blocks]["blocks"]
    state[blocks]["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *(layers[i] for i in layers))
    nnx.update(scanned, state)
    found = ask(name, found=scanned)
    assert found.skipped == asked(name).skipped
    for method, scores in asked(name).maps.items():
        size = np.abs(scores).max()
        got = found.maps[method]
        np.testing.assert_allclose(got, scores, rtol=1e-3, atol=1e-4 * size, err_msg=method)


class Position:
    """A user's own explanation: later is more important."""

    def __call__(self, question: Question) -> jax.Array:
        places = jnp.arange(question.units.shape[1], dtype=jnp.float32)
        return jnp.broadcast_to(places, question.units.shape)


def refused(question: Question) -> jax.Array:
    raise NotImplementedError("never applies")


def test_explanations_of_ones_own_and_names_that_there_are_not() -> None:
    own = "tests.explain.test_library_call:Position"
    found = ask("vit", methods=[own, refused, Position(), "attention_mean"])
    assert list(found.maps) == [own, "Position", "attention_mean"]
    assert found.maps[own].tolist() == [[0, 1, 2, 3]] * 3
    assert found.skipped == {"refused": "never applies"}
    with pytest.raises(ValueError, match="methods names 'rolout'; there are attention_mean"):
        ask("vit", methods=["rolout"])
    with pytest.raises(ValueError, match="'nowhere:Thing', which cannot be imported"):
        ask("vit", methods=["nowhere:Thing"])
    with pytest.raises(ValueError, match=r"<lambda>: scores of shape \(3,\); wanted B P = \(3, 4"):
        ask("vit", methods=[lambda question: jnp.zeros(3)])
    with pytest.raises(ValueError, match="target=3; there are 3 classes, 0 to 2"):
        ask("vit", target=3)
    with pytest.raises(ValueError, match="methods has rollout twice"):
        ask("vit", methods=["rollout", "rollout"])
    with_nan = lambda question: jnp.full(question.units.shape, jnp.nan)  # noqa: E731
    assert ask("vit", methods=[with_nan]).skipped == {"<lambda>": "12 of 12 scores are not finite"}


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_of_another_kind_are_refused_in_a_line(name: str) -> None:
    for wrong in (jnp.zeros((2, 3, 4)), jnp.zeros((0, 5), jnp.int32), (jnp.ones((1, 2)),) * 3):
        with pytest.raises(ValueError, match=r"inputs .*want"):
            ask(name, wrong)


def test_an_order_by_place_has_the_areas_of_its_curve() -> None:
    found = ask("vit", methods=[Position()], target=1, faithfulness=True, fill=0.0)

    def probability(kept: list[bool]) -> np.ndarray:
        shown = np.kron(np.reshape(kept, (2, 2)), np.ones((2, 2)))[None, :, :, None]
        return np.asarray(jax.nn.softmax(model("vit")(IMAGES * jnp.float32(shown)))[:, 1])

    ends = [[n > i for i in range(4)] for n in range(5)]  # the first n are kept
    deleted = [probability(kept) for kept in ends[::-1]]
    inserted = [probability([not k for k in kept]) for kept in ends[::-1]]
    areas = found.faithfulness["Position"]
    np.testing.assert_allclose(areas.deletion, np.trapezoid(deleted, axis=0) / 4, rtol=1e-4)
    np.testing.assert_allclose(areas.insertion, np.trapezoid(inserted, axis=0) / 4, rtol=1e-4)
    assert ((areas.random_deletion > 0) & (areas.random_deletion < 1)).all()


@pytest.mark.parametrize("name", ["vit", "bert", "transformer", "luong_multi_head"])
def test_a_result_draws_itself(name: str) -> None:
    result = ask(name, methods=["attention_mean", "leave_one_out"], faithfulness=True)
    figures = result.figures(1, title="two")
    assert (
        figures.keys()
        >= {
            "vit": {"", "heads"},
            "bert": {"words", "heads", "layers"},
            "transformer": {"alignment", "heads", "encoder"},
            "luong_multi_head": {"alignment", "heads"},
        }[name]
    )
    page = result.page(1, title="two")
    assert page.title == "two"
    for text in ("deletion 0.", "random 0."):
        assert text in page.html or "translation" in page.html


def test_rows_of_a_translation_are_the_tokens_that_are_predicted() -> None:
    result = asked("transformer")
    maps = result.maps_by_token(0)
    assert {name: w.shape[1:] for name, w in maps.items()} == {
        "encoder/0/self": (2, 2), "decoder/0/self": (2, 2), "decoder/0/cross": (2, 2),
    }  # fmt: skip
    # The first row reads only the beginning, which is left out; a token that is predicted is not
    # read yet.
    past = maps["decoder/0/self"]
    assert (past[:, 0] == 0).all()
    assert (past[:, 1, 0] > 0).all()
    assert (past[:, :, 1] == 0).all()
    assert result.skipped["rollout"] == TWO_STACKS
