"""Softmax, entmax and sparsemax: translators whose attention has exact zeros."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from attnzoo.config.attention import AdditiveConfig, Normaliser
from attnzoo.config.model import BahdanauConfig
from attnzoo.plotting.style import COLORS, MARKERS, SMALL_DPI, style
from attnzoo.special_tokens import BOS, PAD
from reproductions.claim import (
    Check,
    Claim,
    Measured,
    Results,
    Setting,
    ahead,
    below,
    certain,
    headline,
)
from reproductions.training import fit
from reproductions.translators import bleu, build, decode, judge, loss, phrases

NORMALISERS: dict[str, Normaliser] = {
    "softmax": "softmax",
    "1.5-entmax": "entmax15",
    "sparsemax": "sparsemax",
}
MARGIN = 0.5
"""Points of BLEU that count as no loss."""


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train a translator with each normaliser; score it, and count the source words it reads."""
    text = phrases("de", *setting.pick((20_000, 1_000), (300, 60)), longest=12)
    numbers: dict[str, dict[str, float]] = {"BLEU": {}, "loss": {}, "share of source read": {}}
    words = text.test.target[:, 1:] > BOS
    lengths = (text.test.source != PAD).sum(axis=1)[:, None]
    for name, normalise in NORMALISERS.items():
        config = BahdanauConfig(
            attention=AdditiveConfig(normalise=normalise), hidden=96, embedding=64, maxout=64
        )
        model = build(config, text.sizes, setting.seed)
        fit(
            model, loss, text.train.batch, steps=setting.pick(500, 3), seed=setting.seed,
            learning_rate=4e-3,
        )  # fmt: skip
        found = np.asarray(decode(model, jnp.asarray(text.test.source), 14)[0])
        numbers["BLEU"][name] = bleu([text.tokenizers[1].decode(row) for row in found], text.test)
        numbers["loss"][name], weights = judge(model, text.test)
        numbers["share of source read"][name] = float(
            ((weights > 0).sum(axis=2) / lengths)[words].mean()
        )
    return {
        f"{label}, {name}": value for label, some in numbers.items() for name, value in some.items()
    }


def _as_good(name: str) -> Check:
    return Check(
        f"BLEU, {name} is at most {MARGIN:g} below BLEU, softmax",
        lambda results: results.difference(f"BLEU, {name}", "BLEU, softmax"),
        low=-MARGIN,
    )


def _came(results: Results) -> str:
    told = []
    for name in NORMALISERS:
        score, share = (
            results.mean(f"{label}, {name}") for label in ("BLEU", "share of source read")
        )
        told.append(f"{score:.1f} and {share:.0%} by {name}")
    return f"BLEU and the share of the source that has a weight are {', '.join(told)}."


def _figure(results: Results) -> Figure:
    """Draw BLEU against the share of the source that has a weight, with intervals."""
    with style():
        figure = Figure(figsize=(4.6, 3.0), dpi=SMALL_DPI, layout="constrained")
        axes = figure.subplots()
        for color, marker, name in zip(COLORS, MARKERS, NORMALISERS):
            x, y = f"share of source read, {name}", f"BLEU, {name}"
            point = results.mean(x), results.mean(y)
            axes.plot(results.interval(x), (point[1], point[1]), color=color, linewidth=1)
            axes.plot((point[0], point[0]), results.interval(y), color=color, linewidth=1)
            axes.plot(*point, color=color, marker=marker, linestyle="none", label=name)
        axes.set(xlabel="share of the source with a weight", ylabel="BLEU", xlim=(0, 1.05))
        axes.legend(frameon=False, loc="lower right")
    return figure


CLAIMS = (
    Claim(
        name="sparse-attention",
        title="Attention with exact zeros translates as well",
        source="Peters, Niculae and Martins 2019, arXiv 1905.05702, tables 1 and 3; Martins and "
        "Astudillo 2016, arXiv 1602.02068",
        claimed="Translators whose attention gives most source words exactly no weight, by "
        "1.5-entmax or sparsemax, are as good as with softmax, which gives weight to all.",
        setup="phrases of the embedded corpus, English to German, up to 12 words, 20,000 to train "
        "on and 1,000 to test on; Bahdanau's model of width 96, 500 steps of 64; greedy search; "
        "the output layer keeps its softmax. The paper's models are of width 500 on IWSLT and "
        "KFTT.",
        criterion=(
            headline(_as_good("1.5-entmax")),
            headline(_as_good("sparsemax")),
            below("share of source read, 1.5-entmax", 0.6),
            below("share of source read, sparsemax", 0.6),
            certain(
                ahead("share of source read, softmax", "share of source read, 1.5-entmax"),
                "a softmax gives weight to all, so that it follows from the lines above",
            ),
        ),
        measure=measure,
        came=_came,
        meaning="Nothing is lost when attention chooses, and what it did not choose is then known "
        "to have had no part in the word.",
        otherwise="A third of the source is all that is read. Trainings differ too much to say "
        "what that costs: after so few steps some, of sparsemax above all, have not yet learned to "
        "translate as well.",
        minutes=1.5,
        figure=_figure,
    ),
)
