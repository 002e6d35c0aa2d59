"""``compute_dtype: bfloat16`` reaches the products of every kind of model."""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import attnzoo
from attnzoo import models
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.tasks import TASKS
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.placement import Placement
from attnzoo.training.step import fresh_state, make_train_step

ATTENTION = "{kind: multi_head, num_heads: 2}"
PAIRS = ("translation", "{kind: synthetic, train: 40, validation: 20, test: 20}")
IMAGES = (
    "image_classification",
    "{kind: images, source: {kind: planted, train: 40, validation: 20, test: 0}}",
)
TEXT = "{kind: text, train: [FILE], validation: [FILE]}"
# kind of model: (task, data, tokenizer, settings)
MODELS = {
    "bahdanau": (*PAIRS, "word", "hidden: 8, embedding: 6, maxout: 5"),
    "luong": (*PAIRS, "word", "hidden: 8, embedding: 6, layers: 1"),
    "transformer": (*PAIRS, "word", f"attention: {ATTENTION}, dim: 8, hidden: 8"),
    "t5": (
        "{kind: span_corruption, context: 13}",
        TEXT,
        "{kind: char, sentinels: 4}",
        f"attention: {ATTENTION}, cross_attention: {ATTENTION}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 1",
    ),
    "gpt2": (
        "{kind: causal_lm, context: 7}",
        TEXT,
        "char",
        f"attention: {ATTENTION}, dim: 8, layers: 1, max_length: 9",
    ),
    "llama": (
        "{kind: causal_lm, context: 7}",
        TEXT,
        "char",
        f"attention: {ATTENTION}, dim: 8, layers: 1, max_length: 9",
    ),
    "bert": (
        "{kind: masked_lm, context: 11}",
        TEXT,
        "{kind: char, mask: true}",
        f"attention: {ATTENTION}, dim: 8, hidden: 8, layers: 1, max_length: 16",
    ),
    "recommender": (
        "recommendation",
        "{kind: interactions, files: [TABLE], header: false, user_column: '0', item_column: '1', "
        "time_column: null}",
        "char",
        f"attention: {ATTENTION}, dim: 8, layers: 1, max_length: 9",
    ),
    "bidaf": (
        "{kind: question_answering, max_question: 9}",
        "{kind: made_questions, facts: 2, train: 9, validation: 3, test: 3}",
        "char",
        "hidden: 8",
    ),
    "rnn_classifier": (
        "sequence_classification",
        "{kind: labelled_text, train: [TSV], validation: [TSV]}",
        "char",
        "hidden: 8, embedding: 6",
    ),
    "decomposable": (
        "sequence_classification",
        "{kind: labelled_text, train: [TSV], validation: [TSV]}",
        "char",
        "hidden: 8, embedding: 6, max_distance: 2",
    ),
    "memory_network": (
        "stories",
        "{kind: made_stories, train: 9, validation: 3, test: 3}",
        "char",
        "dim: 8",
    ),
    "pointer_generator": (
        "summarisation",
        PAIRS[1],
        "word\nshared_vocabulary: true",
        "hidden: 8, embedding: 6, source_words: 3",
    ),
    "vit": (
        *IMAGES,
        "char",
        f"attention: {ATTENTION}, image_size: 12, patch: 2, channels: 1, dim: 8, hidden: 8, "
        "layers: 1",
    ),
    "word_aligner": (
        "{kind: word_alignment, teacher: corpus}",
        PAIRS[1],
        "word",
        f"attention: {ATTENTION}, dim: 8, hidden: 8, layers: 1",
    ),
    "show_attend_tell": (
        "captioning",
        "{kind: scenes, side: 4, cell: 4, train: 20, validation: 5, test: 5}",
        "word",
        "attention: hard, source: {kind: image_resnet, depth: 8, width: 4}, hidden: 8, "
        "embedding: 6",
    ),
    "two_towers": (
        "{kind: contrastive, loss: sigmoid}",
        "{kind: scenes, side: 4, cell: 4, train: 20, validation: 5, test: 5}",
        "word",
        f"image: {{attention: {ATTENTION}, image_size: 16, patch: 8, dim: 8, hidden: 8, "
        "layers: 1, pooling: attention}, "
        f"text: {{attention: {ATTENTION}, dim: 8, hidden: 8, layers: 1, max_length: 17, "
        "pooling: last, is_causal: false}, dim: null, logit_bias: -10",
    ),
    "resnet": (*IMAGES, "char", "depth: 8, width: 4, channels: 1"),
    "detr": (
        "detection",
        "{kind: boxes, source: {kind: shapes, train: 20, validation: 5}, size: [8, 12]}",
        "char",
        f"attention: {ATTENTION}, cross_attention: {ATTENTION}, width: 4, stages: 1, blocks: 1, "
        "dim: 8, hidden: 8, encoder_layers: 1, decoder_layers: 1, num_queries: 5, "
        "queries: proposals, prior: gaussian",
    ),
}  # fmt: skip
# Where products stay float32, and why.
WIDE = {
    "layers/embedding.py": "angles of sinusoidal positions, which have no parameters, are float32",
    "layers/patches.py": "positions are resampled to another grid in float32",
    "ops": "logits, softmax and the weighted sum of values are float32 in every implementation",
}


def products(jaxpr: Any) -> Iterator[tuple[str, str]]:
    """The dtype of the result of every product and convolution, and the file that asks for it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            root = str(Path(attnzoo.__file__).parent)
            frames = equation.source_info.traceback.frames
            files = [frame.file_name for frame in frames if frame.file_name.startswith(root)]
            where = files[0].removeprefix(root).strip("/") if files else "?"
            yield equation.outvars[0].aval.dtype.name, where
        for param in equation.params.values():
            for inner in param if isinstance(param, tuple | list) else [param]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def test_every_kind_is_here() -> None:
    text = (models.TRANSLATORS, models.ALIGNERS, models.DECODERS, models.ENCODERS, models.READERS)
    pictures = (models.CLASSIFIERS, models.DETECTORS, models.CAPTIONERS)
    assert set(MODELS) == set().union(*text, *pictures, models.TOWERS)


@pytest.mark.parametrize("kind", MODELS)
def test_products_are_bfloat16(kind: str, tmp_path: Path) -> None:
    task, data, tokenizer, settings = MODELS[kind]
    (tmp_path / "text").write_text("the cat sat on the mat .\n" * 9)
    (tmp_path / "table").write_text("a\tx\na\ty\na\tz\nb\tx\nb\ty\nb\tx\n")
    (tmp_path / "tsv").write_text("text\tlabel\n" + "a cat\tyes\nthe dog\tno\n" * 9)
    files = {"FILE": "text", "TABLE": "table", "TSV": "tsv"}
    for name, path in files.items():
        data = data.replace(name, str(tmp_path / path))
    lines = [
        f"name: {kind}",
        f"task: {task}",
        f"data: {data}",
        f"tokenizer: {tokenizer}",
        f"model: {{kind: {kind}, {settings}}}",
        "training: {steps: 1, batch_size: 4, max_length: 15, compute_dtype: bfloat16}",
    ]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    config = load(ExperimentConfig, tmp_path / "run.yaml")
    made = TASKS[config.task.kind].create(config, tmp_path, resume=False)
    rule, _ = build_optimizer(config.training, total_steps=1, steps_per_epoch=1)
    graph, state, _ = fresh_state(made, rule, Placement(config.mesh, rows=4))
    step = make_train_step(graph, rule, made.loss, seed=0, compute_dtype="bfloat16")
    program = step.trace(state, made.inputs(made.train.batch(0))).jaxpr
    counted = collections.Counter(products(program.jaxpr))
    assert any(dtype == "bfloat16" for dtype, _ in counted)
    wide = {file for dtype, file in counted if dtype != "bfloat16"}
    assert not {file for file in wide if not file.startswith(tuple(WIDE))}
