"""start_from: weights with their tokenizers, classes and sizes, for every model."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import dump, load
from attnzoo.errors import UserError
from attnzoo.tasks import task_class
from attnzoo.training.checkpoint import CheckpointStore
from attnzoo.training.run_directory import RunDirectory
from attnzoo.training.start import inherit, start_from
from tests.models.products import MODELS, build, config_of, fields_of

SCANNED = [kind for kind, cls in MODELS.items() if "scan" in fields_of(cls)]
LAYERS = ("layers", "encoder_layers", "decoder_layers")


def shapes_of(config: Any) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: build(config)), nnx.Param))


def drawn(config: Any, seed: int) -> dict[str, Any]:
    """Parameters of a model, drawn without building it."""
    random = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(draw, shapes_of(config))


def saved(home: Path, params: dict[str, Any], text: str = "name: x") -> Path:
    run = RunDirectory.create(home)
    run.config.write_text(text)
    with CheckpointStore(run.checkpoints) as store:
        store.save(1, {"params": params}, {})
    return home


def deep(model: str, **settings: Any) -> Any:
    layers = {name: 3 for name in LAYERS if name in fields_of(MODELS[model])}
    return config_of(model, **layers, **settings)


def by_layer(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every array by path, written apart from the code: the stacked ones cut by hand."""
    cut = {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = [str(getattr(key, "key", getattr(key, "idx", key))) for key in where]
        place = path.index("blocks") + 1 if "blocks" in path else 0
        if place and not path[place].isdecimal():
            for layer, part in enumerate(np.asarray(leaf)):
                cut["/".join([*path[:place], str(layer), *path[place:]])] = part
        else:
            cut["/".join(path)] = np.asarray(leaf)
    return cut


@pytest.mark.parametrize("model", SCANNED)
def test_layers_stacked_and_separate_become_each_other(model: str, tmp_path: Path) -> None:
    for scan in (False, True):
        theirs = drawn(deep(model, scan=scan), 1)
        path = saved(tmp_path / str(scan), theirs)
        found, notes = start_from(path, drawn(deep(model, scan=not scan), 2))
        assert len(notes) == 1, notes
        wanted, got = by_layer(theirs), by_layer(found)
        assert wanted.keys() == got.keys()
        assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


@pytest.mark.parametrize("model", SCANNED)
def test_random_numbers_are_not_taken_in_silence(model: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "run", drawn(config_of(model), 1))  # of one layer
    params = drawn(deep(model), 2)
    with pytest.raises(UserError, match=r"/blocks/1/.* random numbers .*start_fresh=\["):
        start_from(path, params)
    _, notes = start_from(path, params, fresh=["encoder", "decoder"])
    assert "start fresh: " in notes[1]


def test_more_than_half_of_the_weights_must_be_asked_for(tmp_path: Path) -> None:
    params = drawn(config_of("bert"), 1)
    path = saved(tmp_path / "run", {"tokens": params["tokens"]})
    with pytest.raises(UserError, match=r"\(.*% of the weights\): .*start_fresh=\["):
        start_from(path, params)
    fresh = [name for name in params if name != "tokens"]
    assert start_from(path, params, fresh=fresh)[1][0].endswith("1 parameters taken")


@pytest.mark.parametrize("model", MODELS)
def test_sizes_are_read_from_the_run(model: str, tmp_path: Path) -> None:
    task = MODELS[model].tasks[0]
    data = {
        "translation": "{kind: synthetic}",
        "word_alignment": "{kind: synthetic}",
        "causal_lm": "{kind: text, train: [x]}",
        "masked_lm": "{kind: text, train: [x]}",
        "sequence_classification": "{kind: labelled_text, train: [x]}",
        "image_classification": "{kind: images, source: planted}",
        "recommendation": "{kind: interactions, files: [x]}",
        "detection": "{kind: boxes}",
        "summarisation": "{kind: synthetic}",
        "question_answering": "made_questions",
        "stories": "made_stories",
        "captioning": "scenes",
        "contrastive": "scenes",
    }[task]
    lines = ["name=x", f"task={task}", f"data={data}", f"model={model}", "training.steps=1"]
    lines += ["model.source_words=4"] if "source_words" in fields_of(MODELS[model]) else []
    plain = load(ExperimentConfig, None, lines)
    sized = dataclasses.replace(plain, model=config_of(model))
    run = saved(tmp_path / "run", {"x": np.ones(1)}, dump(sized))
    config, notes = inherit(dataclasses.replace(plain, start_from=run))
    assert shapes_of(config.model) == shapes_of(sized.model) != shapes_of(plain.model)
    assert "model." in notes[0]
    if "dropout" in fields_of(MODELS[model]):
        assert config.model.dropout == plain.model.dropout
    # What was read is what the run's config says: a resume reads it once more.
    assert inherit(config)[0] == config


PAIRS = (
    "data={kind: files, train: {source: DIR/NAME, target: DIR/NAME}, "
    "validation: {source: DIR/NAME, target: DIR/NAME}}"
)


def translation(home: Path, name: str, *more: str) -> ExperimentConfig:
    data = PAIRS.replace("DIR", str(home)).replace("NAME", name)
    lines = ["name=x", f"directory={home}/run-{name}", data, "training.steps=1"]
    return load(ExperimentConfig, None, [*lines, "model={kind: bahdanau, hidden: 8}", *more])


def test_a_translator_keeps_its_words(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a a a b b c\n" * 9)
    (tmp_path / "new").write_text("c c c b b a\n" * 9)
    old, home = translation(tmp_path, "old", "tokenizer.lowercase=true"), tmp_path / "run-old"
    task = task_class(old.task).create(old, RunDirectory.create(home).path, resume=False)
    saved(tmp_path / "copy", {"x": np.ones(1)}, dump(old))
    (home / "config.yaml").write_text(dump(old))
    new, _ = inherit(translation(tmp_path, "new", f"start_from={home}"))
    assert new.tokenizer == old.tokenizer
    there: Any = task_class(new.task).create(new, tmp_path, resume=False)
    assert there.tokenizers.source.tokens == task.tokenizers.source.tokens  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"tokenizer is bpe here and word there: remove"):
        inherit(translation(tmp_path, "new", f"start_from={home}", "tokenizer=bpe"))
    (home / "source.tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no source.tokenizer.json, .* other words"):
        task_class(new.task).create(new, tmp_path, resume=False)


@pytest.mark.parametrize(
    "model", ["{kind: t5, dim: 8, hidden: 8}", "{kind: transformer, tied: all, dim: 8, hidden: 8}"]
)
def test_two_vocabularies_of_one_size_are_not_one(model: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("the cat sat\nthe dog ran\n")
    (tmp_path / "b").write_text("le chat dort\nle chien court\n")
    side = f"{{source: {tmp_path}/a, target: {tmp_path}/b}}"
    lines = [
        "name=x",
        f"data={{kind: files, train: {side}, validation: {side}}}",
        f"model={model}",
        "model.attention={kind: multi_head, num_heads: 2}",
        "training={steps: 1, batch_size: 2}",
    ]
    made = []
    for shared in ("true", "false"):
        config = load(ExperimentConfig, None, [*lines, f"shared_vocabulary={shared}"])
        task = task_class(config.task).create(config, tmp_path, resume=False)
        made.append(lambda task=task: nnx.eval_shape(task.build_model))
    made[0]()
    with pytest.raises(UserError, match=r"tokenizers differ \(token 4 is '▁the' and '▁le'\)"):
        made[1]()


def test_other_classes_get_a_new_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    config = config_of("bert", head="sequence", num_classes=3)
    theirs = drawn(config, 1)
    path = saved(tmp_path / "run", theirs)
    found, _ = start_from(path, drawn(config, 2))
    np.testing.assert_array_equal(found["classifier"]["kernel"], theirs["classifier"]["kernel"])
    found, notes = start_from(path, drawn(config, 2), new_head=True)
    assert np.all(found["classifier"]["kernel"] != theirs["classifier"]["kernel"])
    assert "2 parameters start fresh: classifier/bias, classifier/kernel" in notes[1]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("sequence_classification", "{kind: labelled_text, train: [DIR/x.tsv], "
         "validation: [DIR/x.tsv]}"),
        ("token_classification", "{kind: tagged_text, train: [DIR/x], validation: [DIR/x]}"),
        ("image_classification", "{kind: images, source: {kind: planted, train: 9, "
         "validation: 9, test: 0}}"),
    ],
)  # fmt: skip
def test_classes_are_compared_by_name(kind: str, data: str, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("text\tlabel\na\tyes\nb\tno\n")
    (tmp_path / "x").write_text("a yes\nb no\n\n")
    model = "vit" if kind.startswith("image") else "bert"
    lines = [f"data={data.replace('DIR', str(tmp_path))}", f"model={model}", "tokenizer=char"]
    config = load(ExperimentConfig, None, ["name=x", f"task={kind}", *lines, "training.steps=1"])
    home = RunDirectory.create(tmp_path / "run").path
    task = task_class(config.task).create(config, home, resume=False)
    assert not task.new_head(home)
    labels = home / "labels.json"
    labels.write_text(labels.read_text().replace('"no"', '"maybe"').replace('"3"', '"three"'))
    assert task.new_head(home)
