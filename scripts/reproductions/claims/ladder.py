"""Luong's ladder: each part of his translator, added one after another."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from attnzoo.config.attention import LocalPConfig, LocationConfig, NoAttentionConfig
from attnzoo.config.model import LuongConfig
from attnzoo.plotting.style import COLORS, MARKERS, SMALL_DPI, style
from attnzoo.special_tokens import PAD
from attnzoo.tasks.losses import mean_loss
from reproductions.claim import Check, Claim, Measured, Results, Setting, above, headline, positive
from reproductions.claims.unknown_words import UNKNOWN, dictionary, replaced
from reproductions.training import fit
from reproductions.translators import (
    MULTI30K,
    Pair,
    Part,
    bleu,
    bleu_samples,
    build,
    captions,
    decode,
)

LONGEST, VOCABULARY, WIDTH, STEPS, RATE = 12, 1_000, 128, 1_500, 1e-2
RUNGS: dict[str, dict[str, Any]] = {
    "base": {"attention": NoAttentionConfig(), "reverse_source": False, "input_feeding": False},
    "+ reverse": {"reverse_source": True},
    "+ dropout": {"dropout": 0.2},
    "+ location": {"attention": LocationConfig(max_length=LONGEST + 1)},
    "+ feeding": {"input_feeding": True},
    "+ local-p": {"attention": LocalPConfig(window=4)},
}
"""What each rung changes of the one before."""
LAST = "+ unknown words"
LADDER = (*RUNGS, LAST)
PAPER = (11.3, 12.6, 14.0, 16.8, 18.1, 19.0, 20.9)
"""BLEU of the paper's rungs."""
ORDER = "rank correlation with the paper's ladder"


def loss(model: Any, made: tuple[Pair, Array]) -> Float[Array, ""]:
    """Return the cross-entropy of a batch with dropout, in nats a word."""
    (source, target), key = made
    labels = target[:, 1:]
    logits = model(source, target[:, :-1], rngs=nnx.Rngs(dropout=key))
    return mean_loss(logits, labels, labels != PAD)[0]


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train a translator on captions for every rung; score its translations."""
    text = captions(
        setting.data, "de", LONGEST, setting.pick(VOCABULARY, 50), setting.pick(None, 60)
    )

    def batch(key: Array) -> tuple[Pair, Array]:
        rows, drop = jax.random.split(key)
        return text.train.batch(rows), drop

    lines: dict[str, list[str]] = {}
    parts: dict[str, Any] = {"dropout": 0.0}
    for name, more in RUNGS.items():
        parts |= more
        if setting.quick and name not in ("base", [*RUNGS][-1]):
            continue
        config = LuongConfig(hidden=WIDTH, embedding=WIDTH, layers=1, **parts)
        model = build(config, text.sizes, setting.seed)
        fit(model, loss, batch, steps=setting.pick(STEPS, 3), seed=setting.seed, learning_rate=RATE)
        tokens, weights = (
            np.asarray(one) for one in decode(model, jnp.asarray(text.test.source), LONGEST + 4)
        )
        words = [
            text.tokenizers[1].decode_words(row, unknown=UNKNOWN).words for row in tokens.tolist()
        ]
        lines[name] = [" ".join(row) for row in words]
    known = dictionary(text.train)
    lines[LAST] = []
    for row, translation in enumerate(words):
        source = text.test.texts[0][row].split()
        most = weights[row, : len(translation), : len(source)].argmax(axis=1).tolist()
        lines[LAST].append(replaced(translation, source, most, known))
    return scored(lines, text.test)


def scored(lines: Mapping[str, list[str]], test: Part) -> dict[str, Measured]:
    """Return BLEU of every rung, what it gains over the one before, and the order of all."""
    found: dict[str, Measured] = {}
    before, drawn_before = 0.0, np.zeros(1)
    for name, some in lines.items():
        value, drawn = bleu(some, test), bleu_samples(some, test)
        found[name] = (value, *np.quantile(drawn, (0.025, 0.975)))
        if name != "base":
            gains = np.quantile(drawn - drawn_before, (0.025, 0.975))
            found[f"gain, {name}"] = (value - before, *gains)
        before, drawn_before = value, drawn
    rungs = [bleu(some, test) for some in lines.values()]
    found[ORDER] = float(spearmanr(range(len(rungs)), rungs)[0])
    return found


def _figure(results: Results) -> Figure:
    """Draw BLEU of every rung with its interval, and the paper's on its own data."""
    with style():
        figure = Figure(figsize=(4.6, 3.2), dpi=SMALL_DPI, layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(LADDER):
            axes.plot([place] * 2, results.interval(name), color=COLORS[0], linewidth=1.5)
        means = [results.mean(name) for name in LADDER]
        axes.plot(means, color=COLORS[0], marker=MARKERS[0], label="here")
        axes.plot(
            PAPER, color=COLORS[1], marker=MARKERS[1], linestyle=":", fillstyle="none",
            label="the paper's, newstest2014",
        )  # fmt: skip
        axes.set_xticks(range(len(LADDER)), labels=LADDER, rotation=30, ha="right")
        axes.set(ylabel="BLEU", ylim=(0, None))
        axes.legend(frameon=False)
    return figure


def _gains(name: str) -> Check:
    return positive(
        f"gain, {name}",
        f"{name} is above the rung before, the whole 95 % interval of a paired bootstrap over "
        "sentences",
    )


def _came(results: Results) -> str:
    told = ", ".join(f"{results.mean(name):.1f} ({name})" for name in LADDER)
    return (
        f"BLEU is {told}; the rank correlation with the paper's order is {results.mean(ORDER):.2f}."
    )


CLAIMS = (
    Claim(
        name="luongs-ladder",
        title="Each part of Luong's translator adds to BLEU",
        source="Luong, Pham and Manning 2015, arXiv 1508.04025, table 1",
        claimed="From a stacked LSTM without attention BLEU rises with every part: a reversed "
        "source, dropout, global attention (location), input feeding, local attention with a "
        "predicted place (general), and unknown words replaced by the translation of the word "
        "that was looked at.",
        setup=f"captions of Multi30k, English to German, of up to {LONGEST} words a side: 13,398 "
        f"to train on, the 490 of test 2016; {VOCABULARY:,} words known of either language, so "
        f"that an eighth of the German words is unknown; one layer of width {WIDTH}, "
        f"{STEPS:,} steps of 64 with Adam for every rung, windows of 9 words, greedy search, a "
        "dictionary from a hidden Markov model; one seed, intervals from a bootstrap over "
        "sentences. The paper has four layers of width 1,000, 4.5 million pairs of up to 50 words, "
        "50,000 words, ten or twelve epochs of SGD, and beam search; its BLEU goes from 11.3 to "
        "20.9.",
        criterion=(
            above(ORDER, 0.8),
            *(headline(_gains(name)) for name in LADDER[1:]),
        ),
        measure=measure,
        came=_came,
        meaning="Each part pays for itself on short sentences too, attention most of all.",
        otherwise="On short sentences and after seven epochs attention, a reversed source and "
        "replaced words add to BLEU; the parts that do not may want longer sentences and networks "
        "that are trained for days.",
        minutes=8,
        seeds=1,
        needs=(MULTI30K,),
        figure=_figure,
        unit="BLEU",
    ),
)
