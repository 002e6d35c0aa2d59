"""Word alignment by the layers and heads of a Transformer, and by a head that is taught to."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.alignment.hmm import HmmAligner
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.teachers import GuidedConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.models import Transformer
from attnzoo.special_tokens import EOS, PAD
from attnzoo.tasks.guided import alignment_loss
from attnzoo.tasks.losses import mean_loss
from attnzoo.tasks.teacher import FORWARD
from reproductions.claim import Check, Claim, Measured, Results, Setting, ahead, headline
from reproductions.training import fit
from reproductions.translators import Part, Phrases, alignment_error, build, judge, loss, phrases

LAYERS, HEADS, LONGEST = 4, 4, 12
HEAD = MultiHeadConfig(num_heads=HEADS)
MODEL = TransformerConfig(
    attention=HEAD, cross_attention=HEAD, dim=64, hidden=128, encoder_layers=2,
    decoder_layers=LAYERS, norm="pre", dropout=0.0,
)  # fmt: skip
GUIDED = GuidedConfig(weight=0.5, timing="predicted")


BEST = LAYERS - 1
"""The last but one layer, from 1."""
HARM = 0.02
"""Nats a word that count as no harm."""


def corpus(setting: Setting) -> Phrases:
    """Return the phrases that both claims read."""
    return phrases("de", *setting.pick((20_000, 1_000), (300, 60)), longest=LONGEST)


def train(setting: Setting, text: Phrases, how: Any, batch: Any) -> Transformer:
    """Return a trained Transformer."""
    model = build(MODEL, text.sizes, setting.seed)
    fit(
        model, how, batch, steps=setting.pick(600, 3), seed=setting.seed, learning_rate=4e-3
    )  # fmt: skip
    return model


@nnx.jit
def _cross(model: Transformer, source: Array, target: Array) -> Float[Array, "L N B T S"]:
    _, maps = model(source, target[:, :-1], capture=True)
    layers = jnp.stack([maps[f"decoder/{layer}/cross"] for layer in range(LAYERS)])
    return jnp.moveaxis(layers, 2, 1)


def errors_by_layer(model: Transformer, part: Part) -> Float[np.ndarray, "L N+1"]:
    """Return the alignment error of each layer: of every head, and of their mean."""
    weights = np.asarray(_cross(model, jnp.asarray(part.source), jnp.asarray(part.target)))
    rows = [[*layer, layer.mean(axis=0)] for layer in weights]
    return np.array([[alignment_error(one, part) for one in row] for row in rows])


def measure_layers(setting: Setting) -> Mapping[str, Measured]:
    """Train a translator; score the weights of every layer, the mean of heads and each head."""
    text = corpus(setting)
    model = train(setting, text, loss, text.train.batch)
    errors = errors_by_layer(model, text.test)
    numbers: dict[str, Measured] = {}
    for name, values in (
        ("mean of the heads", errors[:, -1]),
        ("best head", errors[:, :-1].min(axis=1)),
        ("worst head", errors[:, :-1].max(axis=1)),
    ):
        numbers |= {f"{name}/{n + 1}": float(value) for n, value in enumerate(values)}
    return numbers | {"loss": judge(model, text.test)[0]}


def taught(text: Phrases) -> Any:
    """Return a function that draws training phrases with the links of a statistical aligner."""
    part = text.train
    links = np.zeros((len(part.source), part.target.shape[1] - 1, part.source.shape[1]), np.uint8)
    sides = ([line.split() for line in side] for side in part.texts)
    for row, one in enumerate(HmmAligner().align(*sides)):
        for source, target in one.links:
            links[row, target, source] = FORWARD
    known = jnp.asarray(links)

    def batch(key: Array) -> dict[str, Array]:
        rows = jax.random.randint(key, (64,), 0, len(part.source))
        source, target = jnp.asarray(part.source)[rows], jnp.asarray(part.target)[rows]
        labels = target[:, 1:]
        places = (jnp.arange(side.shape[1], dtype=jnp.int32)[None] for side in (source, labels))
        source_words, target_words = (
            jnp.where(side > EOS, place, -1)
            for side, place in zip((source, labels), places, strict=True)
        )
        return {
            "source": source,
            "target": target,
            "source_words": source_words,
            "target_words": target_words,
            "links": known[rows],
        }

    return batch


def guided_loss(model: Transformer, batch: dict[str, Array]) -> Float[Array, ""]:
    """Return the cross-entropy of a batch, with that of the guided head's weights."""
    labels = batch["target"][:, 1:]
    logits, weights = model(batch["source"], batch["target"][:, :-1], return_weights=True)
    more, count = alignment_loss(weights, batch, GUIDED, "predicted")
    plain, _ = mean_loss(logits, labels, labels != PAD)
    return plain + GUIDED.weight * more / jnp.maximum(count, 1.0)


def measure_guided(setting: Setting) -> Mapping[str, Measured]:
    """Train a translator with a guided head and one without; score translation and links."""
    text = corpus(setting)
    numbers: dict[str, Measured] = {}
    for name, how, batch in (
        ("plain", loss, text.train.batch),
        ("guided", guided_loss, taught(text)),
    ):
        model = train(setting, text, how, batch)
        errors = errors_by_layer(model, text.test)
        plain = errors[:, -1].min()  # the best layer, which is chosen here in its favour
        numbers[f"alignment error, {name}"] = float(
            plain if name == "plain" else errors[BEST - 1, GUIDED.head]
        )
        numbers[f"loss, {name}"] = judge(model, text.test)[0]
    return numbers


def _came_layers(results: Results) -> str:
    errors = [results.mean(f"mean of the heads/{n + 1}") for n in range(LAYERS)]
    best, worst = (results.mean(f"{name} head/{BEST}") for name in ("best", "worst"))
    return (
        f"The alignment error of the mean of the heads is {', '.join(f'{e:.3f}' for e in errors)} "
        f"from the first layer to the last; heads of layer {BEST} alone have {best:.3f} to "
        f"{worst:.3f}."
    )


def _came_guided(results: Results) -> str:
    plain, guided, loss, other = (
        results.mean(f"{label}, {name}")
        for label in ("alignment error", "loss")
        for name in ("plain", "guided")
    )
    return (
        f"The guided head has an alignment error of {guided:.3f}, the best layer of a translator "
        f"that was taught no links {plain:.3f}; their losses are {other:.3f} and {loss:.3f} nats a "
        "word."
    )


def _no_harm() -> Check:
    return Check(
        f"loss, guided is at most {HARM:g} nats above loss, plain",
        lambda results: results.difference("loss, guided", "loss, plain"),
        high=HARM,
    )


HERE = (
    "phrases of the embedded corpus, English to German, up to 12 words, 20,000 to train on and "
    f"1,000 to test on; {LAYERS} decoder layers of width 64 with {HEADS} heads, 600 steps of 64; "
    "weights are credited to the predicted word, and scored over words that have a link."
)
CLAIMS = (
    Claim(
        name="which-layer-aligns",
        title="The last but one layer of a Transformer aligns words best",
        source="Garg et al. 2019, arXiv 1909.02074, section 4.1; Voita et al. 2019, arXiv "
        "1905.09418",
        claimed="Weights of the last but one decoder layer, averaged over the heads, agree best "
        "with the alignment of words, and heads differ much from each other.",
        setup=HERE + " Garg et al. have six layers of 8 heads, trained on Europarl and others.",
        criterion=(
            *(
                headline(ahead(f"mean of the heads/{n + 1}", f"mean of the heads/{BEST}"))
                for n in range(LAYERS)
                if n + 1 != BEST
            ),
            ahead(f"worst head/{BEST}", f"best head/{BEST}", 0.1),
        ),
        measure=measure_layers,
        came=_came_layers,
        meaning="By the last but one layer a decoder knows which word it is about to write, and "
        "looks at the word it translates; layers before it still search, the last one no more.",
        otherwise="The last but one layer is the best on average, as claimed, but trainings differ "
        "too much to tell it from the others.",
        minutes=1,
        axes=("decoder layer", "alignment error rate"),
    ),
    Claim(
        name="guided-attention",
        title="A head that is taught links aligns better and translates as well",
        source="Chen et al. 2016, arXiv 1607.01628; Garg et al. 2019, arXiv 1909.02074, table 2",
        claimed="Supervising the weights of one head with the links of a statistical aligner "
        "lowers the alignment error without harm to the translation.",
        setup=HERE + " One head of layer 3 learns the links of a hidden Markov model, with half "
        "of the weight of the translation; without it the mean of the heads of the best layer is "
        "scored.",
        criterion=(
            headline(ahead("alignment error, plain", "alignment error, guided")),
            headline(_no_harm()),
        ),
        measure=measure_guided,
        came=_came_guided,
        meaning="A translator has room for an alignment that it need not find by itself; if the "
        "weights are to be an alignment, teach them.",
        otherwise="Links that another model found can be taught, but on a text that a translator "
        "aligns well by itself there is little to win, and what the teacher errs in is learnt "
        "too.",
        minutes=2,
        axes=("alignment error rate; nats a word", ""),
    ),
)
