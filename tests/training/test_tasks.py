# Over 400 lines: a list, a config for each task, and the data that they read.
"""Every task trains from a config, goes on exactly, is loaded and is scored."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from attnzoo import pretrained
from attnzoo.cli import convert, evaluate, generate
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.ahead import Ahead
from attnzoo.errors import UserError
from attnzoo.tasks import TASKS
from attnzoo.tasks.run_file import class_names_of
from attnzoo.training.checkpoint import restore
from attnzoo.training.loop import train
from attnzoo.training.run import load_run
from tests.run_commands import edited_data_is_named, training_data_is_not_needed
from tests.spoken import write_recordings

TRAINING = (
    "{steps: 6, batch_size: 4, max_length: 15, evaluate_every: 3, log_every: 2, "
    "tensorboard: false, %s}"
)
TEXT = "the cat sat on the mat .\na dog ran to the red house .\nthe sun was hot on a day .\n"
HEADS = "{kind: multi_head, num_heads: 2}"
BERT = f"{{kind: bert, attention: {HEADS}, dim: 8, hidden: 8, layers: 1, max_length: 16}}"
T5 = (
    f"{{kind: t5, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
    "encoder_layers: 1, decoder_layers: 1, tied: false}"
)
TASK = {
    "causal_lm": (
        "{kind: causal_lm, context: 7}",
        "{kind: text, train: [DIR/text], validation: [DIR/held/text]}",
        "char",
        f"{{kind: gpt2, attention: {HEADS}, dim: 8, layers: 1, max_length: 9}}",
    ),
    "packed": (
        "{kind: causal_lm, context: 29, rows: packed}",
        "{kind: text, train: [DIR/text], validation: [DIR/held/text], documents: lines}",
        "char",
        f"{{kind: llama, attention: {HEADS}, dim: 8, layers: 1, max_length: 29}}",
    ),
    "word_alignment": (
        "{kind: word_alignment, teacher: corpus, consistency: 0.1, masked: 0.1, "
        "identification: 0.1}",
        "{kind: files, train: {table: DIR/pairs}, validation: {table: DIR/held/pairs}, "
        "links_column: 2}",
        "word",
        f"{{kind: word_aligner, attention: {HEADS}, dim: 8, hidden: 8, layers: 1}}",
    ),
    "guided": (
        "{kind: translation, guided: {teacher: corpus, layer: 0, full_context: true}}",
        "{kind: synthetic, task: reverse, train: 14, validation: 6, test: 6, max_length: 7}",
        "word",
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 2}",
    ),
    "guided_module": (
        "{kind: translation, guided: {teacher: corpus, layer: 1, module: 2, contiguity: 0.1}}",
        "{kind: synthetic, task: reverse, train: 14, validation: 6, test: 6, max_length: 7}",
        "word",
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 2}",
    ),
    "masked_lm": (
        "{kind: masked_lm, context: 11, share: 0.3}",
        "{kind: text, train: [DIR/text], validation: [DIR/held/text]}",
        "{kind: char, mask: true}",
        BERT,
    ),
    "span_corruption": (
        "{kind: span_corruption, context: 13}",
        "{kind: text, train: [DIR/text], validation: [DIR/held/text]}",
        "{kind: char, sentinels: 4}",
        T5,
    ),
    "sequence_classification": (
        "sequence_classification",
        "{kind: labelled_text, train: [DIR/tsv], validation: [DIR/held/tsv], test: [DIR/held/tsv]}",
        "char",
        BERT,
    ),
    "token_classification": (
        "token_classification",
        "{kind: tagged_text, train: [DIR/conll], validation: [DIR/held/conll]}",
        "{kind: wordpiece, vocab_size: 50}",
        BERT,
    ),
    "image_classification": (
        "image_classification",
        "{kind: images, source: {kind: folder, path: DIR/images, channels: 1}, "
        "augmentation: {flip: true, pad: 1, mixup: 0.2}}",
        "char",
        f"{{kind: vit, attention: {HEADS}, image_size: 6, patch: 3, channels: 1, dim: 8, "
        "hidden: 8, layers: 2, branch_rate: 0.2}",
    ),
    "recommendation": (
        "{kind: recommendation, loss: binary, windows: all, negatives: 3}",
        "{kind: interactions, files: [DIR/interactions]}",
        "char",
        f"{{kind: recommender, attention: {HEADS}, dim: 8, layers: 1, max_length: 3}}",
    ),
    "question_answering": (
        "{kind: question_answering, stride: 5, max_question: 4, no_answer: true}",
        "{kind: questions, train: [DIR/squad.json], validation: [DIR/held/squad.json]}",
        "char",
        BERT,
    ),
    "stories": (
        "{kind: stories, linear_start: 1, time_noise: 0.4}",
        "{kind: stories, train: [DIR/babi], validation: [DIR/held/babi]}",
        "char",
        "{kind: memory_network, dim: 6, hops: 2, memory: 5}",
    ),
    "captioning": (
        "captioning",
        "{kind: captions, pictures: DIR/pictures, train: [DIR/captions.csv], "
        "validation: [DIR/held/captions.csv], size: 8, augmentation: {flip: true}}",
        "word",
        "{kind: show_attend_tell, source: {kind: image_resnet, depth: 8, width: 4}, "
        "attention: hard, hidden: 6, embedding: 5}",
    ),
    "captioning_transformer": (
        "captioning",
        "{kind: scenes, side: 4, cell: 4, train: 14, validation: 6, test: 6, decoys: 0}",
        "word",
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "source: {kind: image_vit, image_size: 16, patch: 4, dim: 8, hidden: 8, layers: 1}, "
        "encoder_layers: 1, decoder_layers: 2}",
    ),
    "contrastive": (
        "contrastive",
        "{kind: captions, pictures: DIR/pictures, train: [DIR/captions.csv], "
        "validation: [DIR/held/captions.csv], size: 8, augmentation: {flip: true}}",
        "word",
        f"{{kind: two_towers, dim: 6, image: {{attention: {HEADS}, image_size: 8, patch: 4, "
        f"dim: 8, hidden: 8, layers: 1, branch_rate: 0.1}}, text: {{attention: {HEADS}, dim: 8, "
        "hidden: 8, layers: 1, max_length: 17, dropout: 0.1}}",
    ),
    "detection": (
        "detection",
        "{kind: boxes, source: {kind: coco, images: DIR/images, train: DIR/boxes.json, "
        "validation: DIR/held/boxes.json}, size: [8, 12], augmentation: {flip: true}}",
        "char",
        f"{{kind: detr, attention: {HEADS}, cross_attention: {HEADS}, channels: 1, width: 4, "
        "stages: 1, blocks: 1, dim: 8, hidden: 8, encoder_layers: 1, decoder_layers: 2, "
        "num_queries: 3, queries: proposals, prior: gaussian, scores: sigmoid}",
    ),
    "speech": (
        "{kind: speech, guided: 0.5}",
        "{kind: spliced, recordings: DIR/spoken, held_out: 1, train: 7, validation: 3, test: 3, "
        "max_words: 4, test_words: [2, 3]}",
        "word",
        "{kind: luong, attention: {kind: location_aware, kernel: 3}, hidden: 8, layers: 1, "
        "source: {kind: sound_conv, rate: 2_000, mels: 9, dim: 6, recurrent: 1, "
        "augment: {frequency_width: 3, time_width: 3}}}",
    ),
    "sounds": (
        "speech",
        "{kind: speech, train: [DIR/spoken/table.tsv], validation_share: 0.3}",
        "{kind: bpe, vocab_size: 20}",
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
        "encoder_layers: 1, decoder_layers: 1, max_length: 99, tied: none, "
        "source: {kind: sound_pyramid, rate: 2_000, mels: 9, dim: 6, halvings: 2, dropout: 0.1}}",
    ),
    "summarisation": (
        "{kind: summarisation, coverage_weight: 1, coverage_from: 2}",
        "{kind: files, train: {table: DIR/pairs}, validation: {table: DIR/held/pairs}}",
        "{kind: word, max_size: 5}\nshared_vocabulary: true",
        "{kind: pointer_generator, hidden: 8, embedding: 8, source_words: 3}",
    ),
    "batch_norm": (
        "image_classification",
        "{kind: images, source: {kind: folder, path: DIR/images, channels: 1}}",
        "char",
        "{kind: resnet, depth: 8, width: 4, channels: 1}",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of every kind of data."""
    home = tmp_path_factory.mktemp("data")
    (home / "text").write_text(TEXT * 3)
    rows = [f"{line}\t{'animal' if 'cat' in line else 'other'}" for line in TEXT.splitlines() * 3]
    (home / "tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    turned = [(line, " ".join(line.split()[::-1])) for line in TEXT.splitlines()]
    rows = [
        f"{line}\t{other}\t" + " ".join(f"{i}-{n - 1 - i}" for i in range(n))
        for line, other in turned * 3
        for n in [len(line.split())]
    ]
    (home / "pairs").write_text("\n".join(rows) + "\n")
    words = ["the DET\ncat NOUN\nsat VERB\n", "a DET\ndog NOUN\nran VERB\n"]
    (home / "conll").write_text("\n".join(words * 3))
    document = TEXT.splitlines()[0]
    asked = [
        {"id": str(i), "question": f"{i} where ?", "answers": [{"text": word, "answer_start": at}]}
        for i, (word, at) in enumerate([("cat", 4), ("mat", 19), ("the mat", 15)] * 4)
    ]
    asked += [{"id": "no", "question": "who ?", "answers": [], "is_impossible": True}]
    squad = {"data": [{"paragraphs": [{"context": document, "qas": asked}]}]}
    (home / "squad.json").write_text(json.dumps(squad))
    story = "1 the cat sat on the mat .\n2 a dog ran .\n3 who sat ?\tcat\t1\n4 the cat ran .\n"
    (home / "babi").write_text((story + "5 who ran ?\tcat\t4\n") * 9)
    (home / "held").mkdir()
    for name in ("text", "tsv", "conll", "pairs", "squad.json", "babi"):
        shutil.copy(home / name, home / "held")
    rows = [f"u{i % 7}\ti{(i // 7 + i % 7) % 11}\t{i}" for i in range(40)]
    (home / "interactions").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n")
    (home / "pictures").mkdir()
    for part, name in itertools.product(("", "held/"), "abcdefg"):
        Image.new("RGB", (9, 8), (20 * ord(name) % 256, 9, 99)).save(
            home / "pictures" / f"{part[:1]}{name}.png"
        )
        with (home / part / "captions.csv").open("a") as captions:
            captions.write("image,caption\n" * (name == "a"))
            captions.write(f"{part[:1]}{name}.png,a cat on the mat\n{part[:1]}{name}.png,a dog\n")
    write_recordings(home / "spoken", count=3)
    rows = [f"{file.name}\t{file.stem.split('_')[0]}" for file in (home / "spoken").iterdir()]
    (home / "spoken" / "table.tsv").write_text("\n".join(["path\ttext", *sorted(rows)]) + "\n")
    random = np.random.default_rng(0)
    for number, name in itertools.product(range(7), ("bright", "dark")):
        folder = home / "images" / ("train" if number < 5 else "validation") / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 120, (6, 6)) + (120 if name == "bright" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    for file, part in (("boxes.json", "train"), ("held/boxes.json", "validation")):
        (home / file).write_text(boxes_of(home / "images", part))
    return home


def boxes_of(images: Path, part: str) -> str:
    """Return COCO's JSON with a box in each bright picture of a part."""
    paths = enumerate(sorted((images / part / "bright").iterdir()))
    pictures = [{"id": i, "file_name": path.relative_to(images).as_posix()} for i, path in paths]
    boxes = [{"image_id": one["id"], "category_id": 1, "bbox": [1, 1, 3, 4]} for one in pictures]
    categories = [{"id": 1, "name": "patch"}]
    return json.dumps({"images": pictures, "annotations": boxes, "categories": categories})


def experiment(name: str, data: Path, directory: Path, training: str = "", **more: Any):
    task, source, tokenizer, model = TASK[name]
    lines = [
        f"name: {name}",
        f"task: {task}",
        f"data: {source.replace('DIR', str(data))}",
        f"tokenizer: {tokenizer}",
        f"model: {model}",
        f"training: {TRAINING % training}",
    ]
    path = directory.parent / f"{directory.name}.yaml"
    path.write_text("\n".join(lines))
    return dataclasses.replace(load(ExperimentConfig, path), directory=directory, **more)


def bits(directory: Path) -> dict[str, bytes]:
    flat, _ = jax.tree_util.tree_flatten_with_path(restore(directory).state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in flat}


def test_every_task_is_here() -> None:
    kinds = {task if "{" not in task else task[7:].split(",")[0] for task, *_ in TASK.values()}
    assert kinds | {"translation"} == set(TASKS)


TRANSLATION = (
    "translation",
    "{kind: synthetic, train: 14, validation: 6, test: 6, max_length: 7}",
    "word",
    "{kind: luong, hidden: 8, layers: 1}",
)


@pytest.mark.parametrize("name", [*TASK, "translation"])
def test_shares_of_a_batch_are_the_batch(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASK, "translation", TRANSLATION)
    config = experiment(name, data, tmp_path / "run")
    task = TASKS[config.task.kind].create(config, tmp_path, resume=False)
    assert task.validation is not None
    part, alone = task.scored("validation", "test")
    assert part == "validation"
    assert [digest(one) for one in alone.batches()] == [
        digest(one) for one in task.validation.batches()
    ]
    for plan in (task.train, task.validation):
        assert plan is not None
        steps = range(plan.steps_per_epoch)
        epoch = [plan.batch(step) for step in steps]
        # Training takes its validation batches one by one.
        assert [digest(batch) for batch in plan.batches()] == [digest(batch) for batch in epoch]
        for step, whole in zip(steps, epoch, strict=True):
            shares = [plan.batch(step, slice(i, i + 1)) for i in range(4)]
            assert digest({key: np.concatenate([s[key] for s in shares]) for key in whole}) == (
                digest(whole)
            )
        for depth in (0, 1, 4):
            with Ahead(plan, 0, len(epoch), depth=depth, costly=0.0) as batches:
                assert [digest(batch) for batch in batches] == [digest(batch) for batch in epoch]


@pytest.mark.parametrize("name", [*TASK, "translation"])
def test_a_short_training_pads_to_few_lengths(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one for each 100 steps; a resumed run has as many as when it began."""
    monkeypatch.setitem(TASK, "translation", TRANSLATION)
    config = experiment(name, data, tmp_path / "run")

    def lengths(steps: int, begun: int | None = None) -> list[int]:
        training = dataclasses.replace(config.training, steps=steps, max_length=60)
        task = TASKS[config.task.kind].create(
            dataclasses.replace(config, training=training),
            tmp_path,
            resume=begun is not None,
            max_buckets=begun,
        )
        return [len(getattr(plan, "buckets", ())) for plan in (task.train, task.validation)]

    most = lengths(600)
    assert (name == "translation") <= (most[0] == 6)
    for steps, limit in ((199, 1), (599, 5), (10**6, 6)):
        assert lengths(steps) == [min(limit, count) for count in most]
    assert lengths(10**6, begun=2) == [min(2, count) for count in most]


def digest(batch: Any) -> dict[str, tuple[str, bytes]]:
    return {name: (f"{x.dtype} {x.shape}", x.tobytes()) for name, x in batch.items()}


@pytest.mark.parametrize("name", TASK)
def test_three_steps_and_three_are_six(
    name: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "batch_norm":
        request.getfixturevalue("optimised")
    data = Path(shutil.copytree(data, tmp_path / "data"))
    whole = experiment(name, data, tmp_path / "whole")
    assert train(whole).step == 6
    parts = tmp_path / "parts"
    train(_three(name, data, parts))
    assert train(dataclasses.replace(whole, directory=parts), resume=True).step == 6
    assert bits(parts) == bits(tmp_path / "whole")
    lines = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["part"] == "validation"]
    assert [line["step"] for line in scores] == [3, 6]
    # Read again, the best checkpoint has the score that training saw.
    trained = load_run(parts)
    assert evaluate.main([str(parts), "--split", "validation"]) == 0
    written = json.loads((parts / "validation.scores.json").read_text())
    seen = next(line for line in scores if line["step"] == trained.step)
    nll = written.get("nll") or np.log(written["perplexity_per_token"])
    np.testing.assert_allclose(nll, seen["nll"], rtol=1e-5)
    if name in TASKS:  # the others are tasks of the same class
        edited_data_is_named(parts, data, tmp_path)
        training_data_is_not_needed(parts, data, tmp_path)


def _three(name: str, data: Path, directory: Path) -> ExperimentConfig:
    config = experiment(name, data, directory)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=3))


def test_a_language_model_writes_while_it_trains(data: Path, tmp_path: Path, capsys) -> None:
    config = experiment("causal_lm", data, tmp_path / "run", "figures_every: 1")
    train(config)
    shown = capsys.readouterr()
    alphabet = set(TEXT)
    written = [line for line in (shown.out + shown.err).splitlines() if set(line) <= alphabet]
    assert any(len(line) > 2 for line in written)


def test_fine_tuning_starts_from_a_run(data: Path, tmp_path: Path, capsys) -> None:
    first = tmp_path / "first"
    train(experiment("masked_lm", data, first))
    second = experiment("sequence_classification", data, tmp_path / "second", start_from=first)
    still = dataclasses.replace(second.training, learning_rate=1e-30, steps=1)
    train(dataclasses.replace(second, training=still))
    said = "".join(capsys.readouterr())
    assert "start fresh: classifier/bias, classifier/kernel, pooler/bias, pooler/kernel" in said
    kept, old = restore(tmp_path / "second").state, restore(first / "best").state
    np.testing.assert_array_equal(
        kept["params"]["tokens"]["table"], old["params"]["tokens"]["table"]
    )
    assert (tmp_path / "second" / "tokenizer.json").read_bytes() == (
        first / "tokenizer.json"
    ).read_bytes()
    wide = dataclasses.replace(second.model, dim=12)
    with pytest.raises(UserError, match=r"encoder/.* has shape \[.*but the model wants \["):
        train(dataclasses.replace(second, model=wide, directory=tmp_path / "third"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data=cldr", "task.kind=causal_lm takes data.kind=text, not cldr"),
        ("model=luong", "task.kind=causal_lm takes model.kind=gpt2 or llama, not luong"),
        ("training.accumulate=3", "batch_size=4 cannot be cut into accumulate=3"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    line: str, said: str, data: Path, tmp_path: Path
) -> None:
    experiment("causal_lm", data, tmp_path / "run")
    with pytest.raises(UserError, match=said):
        load(ExperimentConfig, tmp_path / "run.yaml", [line])


def test_a_context_that_the_model_has_not(data: Path, tmp_path: Path) -> None:
    config = experiment("causal_lm", data, tmp_path / "run")
    short = dataclasses.replace(config.model, max_length=5)
    with pytest.raises(UserError, match=r"max_length=5 is below task.context=7"):
        train(dataclasses.replace(config, model=short))


def test_a_run_over_characters_goes_on_alike_as_a_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = tmp_path / "run", tmp_path / "folder"
    train(experiment("causal_lm", data, run))
    assert convert.main([str(run), str(folder)]) == 0
    capsys.readouterr()
    asked = ["--prompt", "the c\u0251t", "--max-new-tokens", "2", "--temperature", "0"]
    for one in (run, folder):
        assert generate.main([str(one), *asked]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert len(first) > len("the cat")


def test_a_run_becomes_a_folder_of_transformers(data: Path, tmp_path: Path, capsys) -> None:
    run, folder = tmp_path / "run", tmp_path / "folder"
    train(experiment("token_classification", data, run))
    assert convert.main([str(run), str(folder)]) == 0
    ours, theirs = load_run(run), pretrained.load(folder)
    tokens = jnp.arange(14).reshape(2, 7) % ours.task.tokenizer.vocab_size
    np.testing.assert_array_equal(ours.model(tokens), theirs(tokens))
    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wanted = ours.task.tokenizer.encode_ids("the cat ran")
    assert written.encode("the cat ran", add_special_tokens=False).ids == wanted
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert (settings["cls_token"], settings["mask_token"]) == ("[CLS]", "[MASK]")
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    assert tuple(labels.values()) == ours.task.names == class_names_of(folder)
    capsys.readouterr()


def test_a_model_that_pads_with_another_token_is_refused(tmp_path: Path) -> None:
    model = (
        f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, pad_id: 1}}"
    )
    config = tmp_path / "pad.yaml"
    lines = "name: pad\ndata: {kind: synthetic, train: 9, validation: 3, test: 3}\n"
    config.write_text(f"{lines}model: {model}\ntraining: {TRAINING % ''}")
    experiment = dataclasses.replace(load(ExperimentConfig, config), directory=tmp_path / "run")
    experiment = dataclasses.replace(
        experiment, training=dataclasses.replace(experiment.training, max_length=20)
    )
    with pytest.raises(UserError, match=r"pad_id=1, but .* pad with 0: set model.pad_id=0"):
        train(experiment)
