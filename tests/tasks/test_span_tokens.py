"""Span corruption with tokenizers whose special tokens are others than ours."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.model import Model
from attnzoo.tasks.language_modeling import SpanCorruptionTask

WORDS = ["the", "cat", "sat", "on", "mat"]
SENTINELS = [f"<extra_id_{i}>" for i in reversed(range(4))]
# Special tokens, their place among the words, and the ids of padding, the decoder's start, and EOS.
TOKENS = {
    "t5": (["<pad>", "</s>", "<unk>", *WORDS], (0, 0, 1)),
    "bart": (["<s>", "<pad>", "</s>", "<unk>", *WORDS], (1, 0, 2)),
    "a word is 0": ([*WORDS, "<s>", "<pad>", "</s>", "<unk>"], (6, 5, 7)),
    "padding is the end": ([*WORDS, "<s>", "</s>", "<unk>"], (6, 5, 6)),
}
KINDS = [
    kind.__dataclass_fields__["kind"].default
    for kind in get_args(get_args(Model)[0])
    if "span_corruption" in kind.tasks
]
assert KINDS


def task(folder: Path, tokens: str, kind: str) -> SpanCorruptionTask:
    names = [*TOKENS[tokens][0], *SENTINELS]
    one = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.Whitespace()
    one.add_special_tokens([name for name in names if name.startswith("<")])
    one.save(str(folder / "tokenizer.json"))
    (folder / "text").write_text("the cat sat on the mat\n" * 9, encoding="utf-8")
    attention = "{kind: multi_head, num_heads: 2, head_dim: 3}"
    config = load(
        ExperimentConfig,
        None,
        [
            "name=spans",
            "task={kind: span_corruption, context: 11}",
            f"data={{kind: text, train: [{folder}/text], validation: [{folder}/text]}}",
            f"tokenizer={{kind: file, path: {folder}/tokenizer.json}}",
            f"model={{kind: {kind}, dim: 6, hidden: 5, encoder_layers: 1, decoder_layers: 1, "
            f"attention: {attention}, cross_attention: {attention}}}",
            "training={steps: 1, batch_size: 2}",
        ],
    )
    return SpanCorruptionTask.create(config, folder, resume=False)


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_target_begins_as_the_model_does(tokens: str, tmp_path: Path) -> None:
    made = task(tmp_path, tokens, "t5")
    assert made.train is not None
    pad, start, end = TOKENS[tokens][1]
    batch = made.train.batch(0)
    assert batch["target"][:, 0].tolist() == [start] * 2
    assert batch["source"][0, batch["source_valid"][0].sum() - 1] == end
    config = made.config.model.with_ids(pad_id=pad, start_id=start, eos_id=end)
    assert (config.padding, made.opening) == (pad, start)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_effect_and_every_word_has(kind: str, tmp_path: Path) -> None:
    made = task(tmp_path, "padding is the end", kind)
    model, batch = made.build_model(), made.inputs(made.train.batch(0))
    assert (model.config.pad_id, model.config.start_id, model.config.eos_id) == (6, 5, 6)
    batch["source"] = np.pad(batch["source"], ((0, 0), (0, 2)), constant_values=6)
    batch["source_valid"] = np.pad(batch["source_valid"], ((0, 0), (0, 2)))
    before = float(made.loss(model, batch)[0])
    # Padding; and the end, which is real though it is the token of padding too.
    for column, counts in ((-1, False), (batch["source_valid"][0].sum() - 1, True)):
        source = batch["source"].copy()
        source[0, column] = 4
        assert source[0, column] != batch["source"][0, column]
        assert (float(made.loss(model, {**batch, "source": source})[0]) != before) == counts
