"""Links that teach: where they come from, what is refused, and what a batch holds of them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo.alignment import eflomal
from attnzoo.alignment.links import Links
from attnzoo.config.teachers import (
    CorpusTeacherConfig,
    EflomalTeacherConfig,
    FileTeacherConfig,
    HmmTeacherConfig,
)
from attnzoo.data.batching import BatchPlan
from attnzoo.data.corpus import Corpus
from attnzoo.data.pairs import TokenizedPairs
from attnzoo.data.tokenizers import train_subword_tokenizer
from attnzoo.errors import UserError
from attnzoo.tasks import teacher
from attnzoo.tasks.teacher import BACKWARD, FORWARD, LinkedPlan, TeacherLinks, teach

CORPUS = Corpus(
    ["the cat sat", "a dog"],
    ["el gato sentado", "un perro"],
    [Links.of([(0, 0), (1, 1)], [(2, 2)]), Links.of([(1, 1)])],
)


def test_each_direction_has_its_bit() -> None:
    links = TeacherLinks.of([{(0, 0), (1, 1)}], [{(1, 1), (2, 1)}])
    bits = links.matrix(0, 3, 2, 4)
    wanted = np.zeros((4, 4), np.uint8)
    wanted[0, 0], wanted[1, 1], wanted[1, 2] = FORWARD, FORWARD | BACKWARD, BACKWARD
    np.testing.assert_array_equal(bits, wanted)
    same = TeacherLinks(["0-0 1?1"]).matrix(0, 2, 2, 2)
    np.testing.assert_array_equal(same, 3 * np.eye(2))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0-0 1:1", r"teacher:1: link 2 is '1:1', wanted i-j"),
        ("0-0\t3-0", r"teacher:1: link 3-0 is outside a pair of 3 source words"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TeacherLinks([line]).matrix(0, 3, 3, 4)


def test_a_file_teaches_as_the_corpus(tmp_path: Path) -> None:
    taught = teach(CorpusTeacherConfig(), CORPUS)
    teacher.TEACHER_LINKS.write(taught, tmp_path / "links")
    (tmp_path / "links.gz").write_bytes(gzip.compress((tmp_path / "links").read_bytes()))
    for name in ("links", "links.gz"):
        read = teach(FileTeacherConfig(path=tmp_path / name), CORPUS)
        assert read.lines == taught.lines == ["0-0 1-1 2?2", "1-1"]
        assert read.fingerprint() == taught.fingerprint()
    assert TeacherLinks(["0-0 1-1 2-2", "1-1"]).fingerprint() != taught.fingerprint()


@pytest.mark.parametrize(
    ("config", "corpus", "said"),
    [
        (CorpusTeacherConfig(), Corpus(["a"], ["b"]), "the training data has no links"),
        (FileTeacherConfig(path=Path("no/such")), CORPUS, "no/such: there is no such file"),
        (FileTeacherConfig(path=Path(__file__)), CORPUS, "lines for 2 training pairs"),
    ],
)
def test_what_cannot_teach_is_one_line(config: Any, corpus: Corpus, said: str) -> None:
    with pytest.raises(UserError, match=said):
        teach(config, corpus)


RULES = {
    "each": ["0-0 1-1\t0-0 2-1", "0-0\t1-1"],
    "forward": ["0-0 1-1", "0-0"],
    "backward": ["0-0 2-1", "1-1"],
    "intersection": ["0-0", ""],
    "union": ["0-0 1-1 2-1", "0-0 1-1"],
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_of_both_directions(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler itself is compiled and random; its output here is fixed."""
    given: list[Any] = []

    def align(source: list[str], target: list[str], *, samplers: int) -> Any:
        given.append((source, target, samplers))
        return [{(0, 0), (1, 1)}, {(0, 0)}], [{(0, 0), (2, 1)}, {(1, 1)}]

    monkeypatch.setattr(eflomal, "align", align)
    assert teach(EflomalTeacherConfig(rule=rule), CORPUS).lines == RULES[rule]
    assert given == [(CORPUS.source, CORPUS.target, 3)]


def test_the_hidden_markov_model_teaches_both_directions() -> None:
    random = np.random.default_rng(0)
    numbers = [random.permutation(9)[:4] for _ in range(40)]
    sides = [[" ".join(f"{side}{n}" for n in row) for row in numbers] for side in "ab"]
    wanted = "0-0 1-1 2-2 3-3"
    for rule, line in (("mutual", wanted), ("each", f"{wanted}\t{wanted}")):
        lines = teach(HmmTeacherConfig(rule=rule), Corpus(*sides)).lines
        assert np.mean([other == line for other in lines]) > 0.9


def test_a_batch_has_the_words_of_its_tokens() -> None:
    sides = [train_subword_tokenizer("bpe", lines, vocab_size=40) for lines in (CORPUS.source,) * 2]
    tokenizers = sides[0], train_subword_tokenizer("bpe", CORPUS.target, vocab_size=40)
    pairs, _ = TokenizedPairs.from_corpus(CORPUS, *tokenizers)
    plan = LinkedPlan(
        BatchPlan(pairs, 3, shuffle=False), CORPUS, tokenizers, teach(CorpusTeacherConfig(), CORPUS)
    )
    batch = plan.batch(0)
    length = batch["source"].shape[1]
    assert batch["links"].shape == (3, length, length)
    for place, row in enumerate(batch["rows"]):
        for side, ids in (("source", batch["source"]), ("target", batch["target"][:, 1:])):
            words = batch[f"{side}_words"][place]
            if row < 0:
                assert (words == -1).all()
                continue
            text = getattr(CORPUS, side)[row]
            tokenizer = tokenizers[side == "target"]
            spelled = [
                tokenizer.decode(ids[place][words == word].tolist())
                for word in range(words.max() + 1)
            ]
            assert spelled == text.split()
    links = {int(row): set(zip(*np.nonzero(b.T))) for row, b in zip(batch["rows"], batch["links"])}
    assert links == {-1: set(), 0: {(0, 0), (1, 1), (2, 2)}, 1: {(1, 1)}}
    np.testing.assert_array_equal(plan.batch(0, slice(1, 2))["links"], batch["links"][1:2])
