"""Attention is not explanation: gradients, words left out, weights permuted and erased."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.explain import answer_of, kendall
from attnzoo.explain.adversarial import total_variation
from attnzoo.explain.attention_modules import perturb
from attnzoo.explain.erasure import erase_one, flip_share, permuted_change
from attnzoo.explain.tokens import token_tables, with_vectors
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, below, headline
from reproductions.texts import FILES, PAD, Encoder, accuracy, reader

COUNT = 400
"""Test sentences that are explained."""
ENCODERS: dict[str, Encoder] = {"BiLSTM": "lstm", "words": "words"}
Tokens = Int[Array, "B S"]
Answer = Callable[[Float[Array, "B S"]], Float[Array, "B V"]]


def pooled(model: Any, tokens: Tokens) -> tuple[Float[Array, "B S"], Answer]:
    """Return the weights of the words, and the classes as a function of other weights."""
    weights, answer = answer_of(model, "attention", tokens, valid=tokens != PAD, row=0)
    return weights[:, 0], lambda moved: answer(moved[:, None])


@nnx.jit
def input_gradients(model: Any, tokens: Tokens) -> Float[Array, "B S"]:
    """Return |gradient times word vector| of the predicted class, with the weights held fixed."""
    vectors, valid = token_tables(model)["tokens"](tokens), tokens != PAD

    def likely(vectors: Float[Array, "B S D"]) -> Float[Array, ""]:
        copy, ids = with_vectors(model, "tokens", tokens, vectors)
        _, maps = copy(ids, valid=valid, capture=True)
        own = maps["attention"]
        perturb(copy, {"attention": jax.lax.stop_gradient(own) - own})
        return jnp.sum(jnp.max(jax.nn.softmax(copy(ids, valid=valid), axis=-1), axis=-1))

    return jnp.abs(jnp.sum(jax.grad(likely)(vectors) * vectors, axis=-1))


@nnx.jit
def left_out(model: Any, tokens: Tokens) -> Float[Array, "B S"]:
    """Return the total variation of the classes when each word is left out."""
    graph, state = nnx.split(model)
    place, valid = jnp.arange(tokens.shape[1]), tokens != PAD

    def probabilities(valid: Bool[Array, "B S"]) -> Float[Array, "B V"]:
        return jax.nn.softmax(nnx.merge(graph, state)(tokens, valid=valid), axis=-1)

    before = probabilities(valid)
    without = lambda t: total_variation(probabilities(valid & (place != t)[None]), before)  # noqa: E731
    return jax.lax.map(without, place).T


@functools.partial(nnx.jit, static_argnames="times")
def permutations(
    model: Any, tokens: Tokens, key: Array, times: int
) -> tuple[Float[Array, "B S"], Float[Array, " B"]]:
    """Return the weights, and the median change of the classes when they are permuted."""
    weights, answer = pooled(model, tokens)
    return weights, permuted_change(answer, weights, key, times)


@nnx.jit
def erasures(model: Any, tokens: Tokens, key: Array) -> dict[str, Float[Array, ""]]:
    """Return shares and divergences when weights are erased, as means over the sentences."""
    weights, answer = pooled(model, tokens)
    first, second = jax.random.split(key)
    one = erase_one(answer, weights, first)
    gradient = jax.grad(lambda w: jnp.sum(jnp.max(answer(w), axis=-1)))(weights)
    shares = {}
    for name, scores in {
        "attention": weights,
        "gradient": gradient,
        "gradient x attention": gradient * weights,
        "chance": jax.random.uniform(second, weights.shape),
    }.items():
        ranked = jnp.where(weights > 0, scores, -jnp.inf)
        order = jnp.argsort(-ranked, axis=1).astype(jnp.int32)
        shares[f"words removed by {name}"] = jnp.mean(flip_share(answer, weights, order))
    return {
        "decisions flipped without the most attended word": jnp.mean(one.flips),
        "decisions flipped without another word": jnp.mean(one.random_flips),
        "divergence without the most attended word": jnp.mean(one.divergence),
        "divergence without another word": jnp.mean(one.random_divergence),
        **shares,
    }


def correlations(setting: Setting) -> Mapping[str, Measured]:
    """Correlate the weights of both encoders with gradients and with words left out."""
    found: dict[str, Measured] = {}
    for corpus in FILES:
        for encoder, kind in ENCODERS.items():
            model, data = reader(setting, corpus, kind)
            some = data.test.some(setting.pick(COUNT, 8))
            weights, _ = pooled(model, some.tokens)
            gradients, changes = (f(model, some.tokens) for f in (input_gradients, left_out))
            at = f"{encoder}, {corpus}"
            found[f"accuracy, {at}"] = accuracy(model, data.test)
            for name, pair in {
                "attention and gradient": (weights, gradients),
                "attention and leave one out": (weights, changes),
                "gradient and leave one out": (gradients, changes),
            }.items():
                found[f"{name}, {at}"] = float(jnp.nanmean(kendall(*pair, some.valid)))
    return found


def permuted(setting: Setting) -> Mapping[str, Measured]:
    """Permute the weights of a BiLSTM's attention a hundred times."""
    found: dict[str, Measured] = {}
    for corpus in FILES:
        model, data = reader(setting, corpus, "lstm")
        some, key = data.test.some(setting.pick(COUNT, 8)), jax.random.key(setting.seed)
        weights, change = permutations(model, some.tokens, key, times=setting.pick(100, 3))
        largest = weights.max(axis=1)
        peaked = largest >= jnp.quantile(largest, 2 / 3)
        for which, chosen in {"all": largest >= 0, "the most peaked third": peaked}.items():
            found[f"largest weight, {which}, {corpus}"] = float(jnp.mean(largest[chosen]))
            found[f"median change, {which}, {corpus}"] = float(jnp.median(change[chosen]))
            share = jnp.mean(change[chosen] <= 0.1)
            found[f"changed by at most 0.1, {which}, {corpus}"] = float(share)
    return found


def erased(setting: Setting) -> Mapping[str, Measured]:
    """Erase the most attended word, another one, and words in four orders until it flips."""
    found: dict[str, Measured] = {}
    for corpus in FILES:
        model, data = reader(setting, corpus, "lstm")
        some, key = data.test.some(setting.pick(COUNT, 8)), jax.random.key(setting.seed)
        numbers = erasures(model, some.tokens, key)
        found |= {f"{name}, {corpus}": float(value) for name, value in numbers.items()}
    return found


def _range(results: Results, name: str) -> str:
    values = [results.mean(f"{name}, {corpus}") for corpus in FILES]
    return " and ".join(f"{value:.2f}" for value in values)


DATA = (
    "film reviews by sentiment (10,662) and sentences by subjectivity (10,000), 1,000 of each for "
    f"tests, {COUNT} of them explained; "
)
MODEL = (
    "word vectors and states of 64, a BiLSTM and additive attention with a learned query, 1,200 "
    "steps "
    "of 32 sentences"
)
NEEDS = tuple(f"text/{package}.zip" for package, *_ in FILES.values())
CORPORA = tuple(FILES)

CLAIMS = (
    Claim(
        name="attention-and-gradients",
        title="A BiLSTM's attention agrees little with gradients and with words left out",
        source="Jain and Wallace 2019, arXiv 1902.10186, table 2 and figures 2 to 4",
        claimed="Attention over a BiLSTM is only weakly correlated with gradients and with the "
        "change when a word is left out; over words by themselves it is correlated more, and "
        "gradients agree with leaving out better than attention does.",
        setup=f"{DATA}{MODEL}, or a layer on each word instead of the BiLSTM; Kendall's tau, "
        "gradients with weights held fixed. The paper has ten data sets, and pretrained vectors.",
        criterion=tuple(
            check
            for corpus in CORPORA
            for check in (
                headline(below(f"attention and gradient, BiLSTM, {corpus}", 0.5)),
                headline(below(f"attention and leave one out, BiLSTM, {corpus}", 0.5)),
                ahead(
                    f"attention and gradient, words, {corpus}",
                    f"attention and gradient, BiLSTM, {corpus}",
                ),
                ahead(
                    f"attention and leave one out, words, {corpus}",
                    f"attention and leave one out, BiLSTM, {corpus}",
                ),
                ahead(
                    f"gradient and leave one out, BiLSTM, {corpus}",
                    f"attention and leave one out, BiLSTM, {corpus}",
                ),
            )
        ),
        measure=correlations,
        came=lambda results: (
            "On sentiment and subjectivity, attention over the BiLSTM has a tau of "
            f"{_range(results, 'attention and gradient, BiLSTM')} with gradients and of "
            f"{_range(results, 'attention and leave one out, BiLSTM')} with leaving out; over "
            f"words "
            f"by themselves {_range(results, 'attention and gradient, words')} and "
            f"{_range(results, 'attention and leave one out, words')}."
        ),
        meaning="A weight belongs to a state that has read the whole sentence, so it does not say "
        "how much the word at that place matters.",
        otherwise="How well attention agrees with other measures of importance depends on data and "
        "model; the order of the encoders is not the same everywhere.",
        minutes=1.2,
        axes=("accuracy, or Kendall's tau", ""),
        needs=NEEDS,
    ),
    Claim(
        name="attention-permuted",
        title="Permuting the weights changes many answers little",
        source="Jain and Wallace 2019, arXiv 1902.10186, section 4.2.1 and figure 6",
        claimed="For many sentences, also among those whose attention is peaked, the median change "
        "of the answer over a hundred random permutations of the weights is small.",
        setup=f"{DATA}{MODEL}; the change is the total variation of the classes, small is 0.1 at "
        "most, many is half of the sentences.",
        criterion=tuple(
            headline(above(f"changed by at most 0.1, {which}, {corpus}", 0.5))
            for corpus in CORPORA
            for which in ("all", "the most peaked third")
        ),
        measure=permuted,
        came=lambda results: (
            "On sentiment and subjectivity, the shares of sentences that change by at most 0.1 are "
            f"{_range(results, 'changed by at most 0.1, all')}, and of the third with the most "
            f"peaked attention {_range(results, 'changed by at most 0.1, the most peaked third')}; "
            "the largest weight there is "
            f"{_range(results, 'largest weight, the most peaked third')} on average."
        ),
        meaning="Where the states of all words hold the answer, it does not matter which of them "
        "the weights select. Weights that are at most so large are not peaked: of models whose "
        "attention is, this says nothing.",
        otherwise="Where the weights are peaked the answer depends on them: that permuting does no "
        "harm is a fact about flat attention and redundant states, not about all models.",
        minutes=0.4,
        axes=("share, weight, or total variation", ""),
        needs=NEEDS,
    ),
    Claim(
        name="attention-erased",
        title="Attention ranks what a decision needs better than chance, and worse than gradients",
        source="Serrano and Smith 2019, arXiv 1906.03731, sections 4 and 5, table 1, figures 3 "
        "to 5",
        claimed="Erasing the most attended item flips a decision rarely, though more often than "
        "erasing another one; and fewer items have to be erased in the order of gradient times "
        "attention than in that of attention.",
        setup=f"{DATA}{MODEL}; an erased weight is 0 and the others are scaled up. The paper's "
        "texts are longer, and most of its models are hierarchical.",
        criterion=tuple(
            check
            for corpus in CORPORA
            for check in (
                ahead(
                    f"decisions flipped without the most attended word, {corpus}",
                    f"decisions flipped without another word, {corpus}",
                ),
                below(f"decisions flipped without the most attended word, {corpus}", 0.5),
                headline(
                    ahead(
                        f"words removed by chance, {corpus}",
                        f"words removed by attention, {corpus}",
                    )
                ),
                headline(
                    ahead(
                        f"words removed by attention, {corpus}",
                        f"words removed by gradient x attention, {corpus}",
                    )
                ),
            )
        ),
        measure=erased,
        came=lambda results: (
            "On sentiment and subjectivity, the decision flips without the most attended word for "
            "shares of "
            f"{_range(results, 'decisions flipped without the most attended word')} of the "
            "sentences, and without another word for "
            f"{_range(results, 'decisions flipped without another word')}; until it flips, "
            f"{_range(results, 'words removed by attention')} of the words have to go in the order "
            f"of attention, {_range(results, 'words removed by gradient x attention')} in that of "
            "gradient times attention."
        ),
        meaning="Attention says something of importance, but where few words carry a decision "
        "it is "
        "not their fair ranking.",
        otherwise="Gradients times attention rank words better than attention does; whether "
        "attention ranks them better than chance these trainings leave open.",
        minutes=0.4,
        axes=("share, or divergence in nats", ""),
        needs=NEEDS,
    ),
)
