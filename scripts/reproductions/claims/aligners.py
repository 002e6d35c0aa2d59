"""Statistical word alignment: the models that attention is measured against."""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnzoo.alignment.hmm import HmmAligner
from attnzoo.alignment.links import Links, parse_pharaoh
from attnzoo.alignment.scores import bootstrap_interval, count_corpus, score_corpus
from attnzoo.config.alignment import HmmConfig
from reproductions.claim import Claim, Measured, Results, Setting, ahead, headline

Verses = tuple[list[list[str]], list[list[str]], list[Links]]


def read(path: Path, limit: int | None) -> Verses:
    """Read verses with their links: words of both sides, and the reference."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][:limit]
    english, spanish, links = ([row[column] for row in rows] for column in (1, 2, 3))
    return (
        [line.split() for line in english],
        [line.split() for line in spanish],
        [parse_pharaoh(line) for line in links],
    )


MODELS = {
    "IBM model 1": HmmConfig(lexicon_iterations=7, iterations=0, jump_scale=1e9, agreement=False),
    "HMM": HmmConfig(agreement=False),
    "HMM with agreement": HmmConfig(),
}


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Align the test verses by each model, trained on all verses; nothing in it is random."""
    home = setting.data / "bible-en-es"
    test = read(home / "test.tsv.gz", setting.pick(None, 200))
    train = read(home / "train.tsv.gz", setting.pick(None, 500))
    return {name: _error(config, train, test) for name, config in MODELS.items()}


def _error(config: HmmConfig, train: Verses, test: Verses) -> tuple[float, float, float]:
    aligner = HmmAligner(config, (train[0], train[1]))
    found: Sequence[set[tuple[int, int]]] = [set(one.links) for one in aligner.align(*test[:2])]
    counts = count_corpus(found, test[2], restrict=True)
    return score_corpus(found, test[2], restrict=True).aer, *bootstrap_interval(counts)


def _came(results: Results) -> str:
    one, hmm, both = (results.mean(name) for name in MODELS)
    return (
        f"On 2,000 verses of the Bible the error is {one:.3f} by model 1, {hmm:.3f} by the HMM and "
        f"{both:.3f} when its two directions are trained to agree."
    )


CLAIMS = (
    Claim(
        name="alignment-by-agreement",
        title="Word order, then agreement, make a statistical aligner good",
        source="Vogel, Ney and Tillmann 1996, doi 10.3115/993268.993313; "
        "Liang, Taskar and Klein 2006, table 1, N06-1014",
        claimed="A hidden Markov model that knows how far the alignment jumps beats IBM model 1, "
        "and training both directions to agree beats training each alone.",
        setup="King James and Reina-Valera verses, 26,084 to train on and 2,000 to test on; error "
        "rate over words that have a link, mutual best links; words cut to four letters. The "
        "papers' data are Hansards and Verbmobil.",
        criterion=(
            headline(ahead("IBM model 1", "HMM")),
            headline(ahead("HMM", "HMM with agreement")),
        ),
        measure=measure,
        came=_came,
        meaning="What attention must learn to be an alignment is in these two ideas: a sense of "
        "order, and one meaning seen from both sides.",
        minutes=2,
        seeds=1,
        axes=("alignment error rate", ""),
        needs=("bible-en-es",),
    ),
)
