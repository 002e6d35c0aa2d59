"""Translators with and without attention, by the length of the sentence."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from attnzoo.config.attention import AdditiveConfig, AttentionConfig, NoAttentionConfig
from attnzoo.config.model import BahdanauConfig
from attnzoo.special_tokens import BOS, EOS
from attnzoo.tasks.scores import score_translations
from reproductions.claim import Claim, Measured, Results, Setting, ahead, below, headline
from reproductions.training import fit
from reproductions.translators import Part, Phrases, build, decode, loss, padded, phrases

KINDS: dict[str, AttentionConfig] = {
    "with attention": AdditiveConfig(),
    "without": NoAttentionConfig(),
}
LENGTHS = (5, 10, 15, 20, 25, 30)
"""Upper ends of the ranges of source length of the test, in words; training ends at TRAINED."""
TRAINED, LONGEST = 20, 30


def joined(text: Phrases, part: Part, count: int, longest: int, seed: int) -> Part:
    """Return sentences of one to six phrases and of at most ``longest`` words."""
    generator = np.random.default_rng(seed)
    sentences: list[tuple[str, str]] = []
    while len(sentences) < count:
        rows = generator.integers(len(part.source), size=generator.integers(1, 7))
        sides = [" , ".join(side[row] for row in rows) for side in part.texts]
        if max(len(side.split()) for side in sides) <= longest:
            sentences.append((sides[0], sides[1]))
    one, two = text.tokenizers
    return Part(
        padded([[*one.encode_ids(first), EOS] for first, _ in sentences], longest + 1),
        padded([[BOS, *two.encode_ids(second), EOS] for _, second in sentences], longest + 2),
        ([first for first, _ in sentences], [second for _, second in sentences]),
        [],
    )


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Train on short sentences with and without attention; score greedy translations by length."""
    text = phrases("de", *setting.pick((20_000, 1_000), (300, 60)), longest=12)
    counts = setting.pick((20_000, 1_200), (50, 600))
    train = joined(text, text.train, counts[0], TRAINED, seed=0)
    test = joined(text, text.test, counts[1], LONGEST, seed=1)
    words = np.array([len(source.split()) for source in test.texts[0]])
    scores: dict[str, float] = {}
    for name, attention in KINDS.items():
        config = BahdanauConfig(attention=attention, hidden=96, embedding=64, maxout=64)
        model = build(config, text.sizes, setting.seed)
        fit(
            model, loss, lambda key: train.batch(key, 32), steps=setting.pick(800, 3),
            seed=setting.seed, learning_rate=4e-3,
        )  # fmt: skip
        found, _ = decode(model, jnp.asarray(test.source), LONGEST + 5)
        texts = [text.tokenizers[1].decode(row) for row in np.asarray(found)]
        for first, last in zip((0, *LENGTHS), LENGTHS):
            rows = np.flatnonzero((words > first) & (words <= last))
            some, source, target = ([side[row] for row in rows] for side in (texts, *test.texts))
            score = score_translations(some, source, target, (), tokenize="none")
            scores[f"{name}/{last}"] = score["bleu"]
        scores[f"fall, {name}"] = scores[f"{name}/5"] - scores[f"{name}/{TRAINED}"]
    return scores


def _came(results: Results) -> str:
    def told(name: str) -> str:
        short, long = (results.mean(f"{name}/{length}") for length in (5, TRAINED))
        return f"{short:.1f} at up to 5 words and {long:.1f} at 16 to {TRAINED}"

    far = results.mean(f"with attention/{LONGEST}")
    near, last = (f"with attention/{length}" for length in (TRAINED, LONGEST))
    fall, low, high = results.difference(near, last)
    return (
        f"With attention BLEU is {told('with attention')}, without it {told('without')}; at 26 to "
        f"{LONGEST} words, which no training sentence had, it is {far:.1f} with attention, a fall "
        f"of {fall:.1f} ({low:.1f} to {high:.1f})."
    )


CLAIMS = (
    Claim(
        name="attention-and-length",
        title="Up to trained lengths translations decay without attention, not with it",
        source="Bahdanau, Cho and Bengio 2015, arXiv 1409.0473, figure 2; Cho et al. 2014, arXiv "
        "1409.1259, figure 4",
        claimed="A translator that keeps the whole sentence in one vector gets worse with its "
        "length; with attention there is no such decay.",
        setup="sentences joined from phrases of the embedded corpus, English to German, of at most "
        f"{TRAINED} words in training (20,000) and {LONGEST} in the test (1,200), whose phrases "
        "are new; Bahdanau's model of width 96, 800 steps of 32, the same steps without attention; "
        "greedy search; BLEU over the words of the corpus. The paper's models are of width 1,000, "
        "trained for days on WMT 2014, English to French.",
        criterion=(
            headline(ahead("fall, without", "fall, with attention", 10)),
            headline(below("fall, with attention", 5)),
            ahead(f"with attention/{TRAINED}", f"without/{TRAINED}", 10),
        ),
        measure=measure,
        came=_came,
        meaning="One vector has room for a few words; attention fetches each word when it is "
        "needed, so that length costs nothing as far as training went.",
        minutes=1.2,
        axes=("source words, at most", "BLEU"),
    ),
)
