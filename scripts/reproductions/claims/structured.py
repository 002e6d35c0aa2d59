"""Structured self-attention: several weighted sums of states, kept apart by a penalty."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.attention import hop_overlap
from attnzoo.config.rnn_classifier import RnnClassifierConfig
from attnzoo.models import RnnClassifier
from reproductions.claim import Claim, Measured, Results, Setting, ahead, headline
from reproductions.texts import FILES, PAD, accuracy, corpus, of_logits, train

HOPS, PENALTY = 4, 0.1
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "maximum": ({"pooling": "max"}, 0.0),
    "one hop": ({"pooling": "structured", "hops": 1}, 0.0),
    f"{HOPS} hops": ({"pooling": "structured", "hops": HOPS}, 0.0),
    f"{HOPS} hops, penalty": ({"pooling": "structured", "hops": HOPS}, PENALTY),
}


def overlap(weights: Float[Array, "B N 1 S"]) -> Float[Array, " B"]:
    """Return the mean cosine between two hops."""
    rows = weights[:, :, 0]
    rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
    products = jnp.einsum("bns,bms->bnm", rows, rows)
    count = rows.shape[1]
    return (jnp.sum(products, axis=(1, 2)) - count) / (count * (count - 1))


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train a BiLSTM with each pooling; score it, and the likeness of its hops."""
    found: dict[str, Measured] = {}
    for name in FILES:
        data = corpus(setting, name)
        for way, (settings, penalty) in WAYS.items():
            config = RnnClassifierConfig(embedding=64, hidden=32, dropout=0.3, **settings)
            model = RnnClassifier(config, data.vocabulary, rngs=nnx.Rngs(setting.seed))

            def loss(model: Any, batch: dict[str, Any], penalty: float = penalty) -> Array:
                rngs, valid = nnx.Rngs(dropout=batch["key"]), batch["tokens"] != PAD
                logits, maps = model(batch["tokens"], valid=valid, rngs=rngs, capture=True)
                more = penalty * jnp.mean(hop_overlap(maps["attention"])) if penalty else 0.0
                return of_logits(logits, batch["labels"]) + more

            train(setting, model, data.train, steps=900, seed=setting.seed, loss=loss)
            found[f"accuracy, {way}, {name}"] = accuracy(model, data.test)
            if settings.get("hops", 1) > 1:
                run = nnx.jit(lambda model, x: model(x, valid=x != PAD, capture=True)[1])
                alike = overlap(run(model, data.test.tokens)["attention"])
                found[f"likeness of hops, {way}, {name}"] = float(np.mean(alike))
    return found


def _came(results: Results) -> str:
    told = [
        f"on {name} {results.mean(f'accuracy, {HOPS} hops, penalty, {name}'):.1%} are right with "
        f"{HOPS} hops and the penalty, {results.mean(f'accuracy, one hop, {name}'):.1%} with one "
        f"and {results.mean(f'accuracy, maximum, {name}'):.1%} with the maximum"
        for name in FILES
    ]
    first = next(iter(FILES))
    apart, alike = (
        results.mean(f"likeness of hops, {HOPS} hops{more}, {first}") for more in (", penalty", "")
    )
    return (
        f"Here, {', and '.join(told)}; the cosine between hops is {apart:.2f} with the penalty and "
        f"{alike:.2f} without it, on {first}."
    )


CLAIMS = (
    Claim(
        name="structured-self-attention",
        title="Several hops read a sentence better than one, if a penalty keeps them apart",
        source="Lin et al. 2017, arXiv 1703.03130, table 1, sections 4.4.1 and 4.4.2",
        claimed="A sentence embedding of several attention hops is better than the maximum of the "
        "states and than a single hop, and without the penalty the hops look at the same words.",
        setup="film reviews by sentiment (10,662) and sentences by subjectivity (10,000), 1,000 of "
        "each for tests; word vectors and states of 64, a BiLSTM, 900 steps of 32 sentences, "
        f"{HOPS} hops, penalty {PENALTY}. The paper has longer texts, pretrained vectors, 30 hops "
        "and a penalty of 1.",
        criterion=tuple(
            check
            for name in FILES
            for check in (
                ahead(f"accuracy, {HOPS} hops, penalty, {name}", f"accuracy, maximum, {name}"),
                headline(
                    ahead(f"accuracy, {HOPS} hops, penalty, {name}", f"accuracy, one hop, {name}")
                ),
                ahead(
                    f"likeness of hops, {HOPS} hops, {name}",
                    f"likeness of hops, {HOPS} hops, penalty, {name}",
                ),
            )
        ),
        measure=measure,
        came=_came,
        meaning="A sentence has more than one thing to say; several sums keep them apart, and the "
        "penalty sees to it that they differ.",
        otherwise="The penalty does what it should to the hops, but several of them are not seen "
        "to read single sentences better than one does; texts of several sentences, which the "
        "paper has, were not measured.",
        minutes=2,
        axes=("accuracy, or cosine", ""),
        needs=tuple(f"text/{package}.zip" for package, *_ in FILES.values()),
    ),
)
