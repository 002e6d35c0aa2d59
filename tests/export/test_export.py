# Over 400 lines: a list, a run for each kind of model, exported once for all tests.
"""Exported models run without this package as the models do, on sizes not known to the export."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from attnzoo import cli, pretrained
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.augment import normalise, to_float
from attnzoo.decoding import greedy_search
from attnzoo.decoding.generate import generate
from attnzoo.decoding.hypotheses import TokenIds
from attnzoo.export.load import Exported, digest_of
from attnzoo.ops.boxes import to_corners
from attnzoo.tasks import TASKS
from attnzoo.training.checkpoint import BestCheckpoint
from attnzoo.training.inference_weights import with_weights
from attnzoo.training.run import Run
from attnzoo.training.run_directory import RunDirectory
from tests.spoken import write_recordings

TEXT = "the cat sat on the mat .\na dog ran to the red house .\nthe sun was hot on a day .\n"
HEADS = "{kind: multi_head, num_heads: 2}"
BERT = f"{{kind: bert, attention: {HEADS}, dim: 8, hidden: 8, layers: 2, max_length: 13}}"
TAGGED = "{kind: tagged_text, train: [DIR/conll], validation: [DIR/conll]}"
LINES = "{kind: text, train: [DIR/text], validation: [DIR/text]}"
IMAGES = (
    "{kind: images, source: {kind: folder, path: DIR/images, channels: 1}, validation_share: 0.3}"
)
PAIRS = "{kind: synthetic, task: reverse, symbols: 7, max_length: 5, train: 20, validation: 5}"
SCENES = "{kind: scenes, side: 4, cell: 4, train: 20, validation: 5, test: 5}"
# Task, data, tokenizer, model; whose names the weights have.
CASES = {
    "bahdanau": ("translation", PAIRS, "word",
                 "{kind: bahdanau, attention: additive, hidden: 5, embedding: 3, maxout: 2}",
                 "attnzoo"),
    "transformer": ("translation", PAIRS, "word",
                    f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, "
                    "hidden: 8, encoder_layers: 1, decoder_layers: 2, max_length: 17, tied: none}",
                    "attnzoo"),
    "pointer_generator": ("summarisation", "{kind: reports, train: 20, validation: 5, "
                          "min_sentences: 1, max_sentences: 1}",
                          "{kind: word, max_size: 20}\nshared_vocabulary: true",
                          "{kind: pointer_generator, hidden: 5, embedding: 3, source_words: 7}",
                          "attnzoo"),
    "t5": ("{kind: span_corruption, context: 13}", LINES, "{kind: char, sentinels: 4}",
           f"{{kind: t5, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, hidden: 8, "
           "encoder_layers: 1, decoder_layers: 1}",
           "transformers"),
    "gpt2": ("{kind: causal_lm, context: 7}", LINES, "char",
             f"{{kind: gpt2, attention: {HEADS}, dim: 8, layers: 2, max_length: 14}}",
             "transformers"),
    "scanned": ("{kind: causal_lm, context: 7}", LINES, "char",
                f"{{kind: llama, attention: {HEADS}, dim: 8, layers: 3, max_length: 14, "
                "scan: true}",
                "transformers"),
    "retnet": ("{kind: causal_lm, context: 7}", LINES, "char",
               "{kind: gpt2, attention: {kind: retnet, num_heads: 2}, dim: 8, layers: 1, "
               "max_length: 14}",
               "attnzoo"),
    "masked": ("{kind: masked_lm, context: 11}", LINES, "{kind: char, mask: true}", BERT,
               "transformers"),
    "tags": ("token_classification", TAGGED, "{kind: wordpiece, vocab_size: 50}", BERT,
             "transformers"),
    "vit": ("image_classification", IMAGES, "char",
            f"{{kind: vit, attention: {HEADS}, image_size: 6, patch: 3, channels: 1, dim: 8, "
            "hidden: 8, layers: 2}",
            "transformers"),
    "recommender": ("recommendation", "{kind: interactions, files: [DIR/interactions]}", "char",
                    "{kind: recommender, attention: {kind: factorised_positional, rank: 3}, "
                    "dim: 8, layers: 2, max_length: 13}",
                    "attnzoo"),
    "reader": ("{kind: question_answering, max_question: 4}",
               "{kind: questions, train: [DIR/squad.json], validation: [DIR/squad.json]}", "char",
               "{kind: bidaf, hidden: 5, layers: 1}", "attnzoo"),
    "stories": ("stories", "{kind: stories, train: [DIR/babi], validation: [DIR/babi]}", "char",
                "{kind: memory_network, dim: 5, memory: 9}", "attnzoo"),
    "captioner": ("captioning", SCENES, "word",
                  "{kind: show_attend_tell, source: {kind: image_conv, widths: [5, 8]}, "
                  "attention: additive, hidden: 5, embedding: 3}",
                  "attnzoo"),
    "towers": ("contrastive", SCENES, "word",
               f"{{kind: two_towers, dim: 6, image: {{attention: {HEADS}, image_size: 16, "
               "patch: 8, dim: 8, hidden: 8, layers: 1, pre_norm: true, patch_bias: false}, "
               f"text: {{attention: {HEADS}, dim: 8, hidden: 8, layers: 1, max_length: 15}}}}",
               "attnzoo"),
    "detr": ("detection",
             "{kind: boxes, source: {kind: shapes, train: 4, validation: 1}, size: [8, 12]}",
             "char",
             f"{{kind: detr, attention: {HEADS}, cross_attention: {HEADS}, width: 4, stages: 1, "
             "blocks: 1, dim: 8, hidden: 8, encoder_layers: 1, decoder_layers: 2, num_queries: 5, "
             "queries: proposals, prior: gaussian, scores: sigmoid}",
             "attnzoo"),
    "speech": ("speech", "{kind: spliced, recordings: DIR/spoken, held_out: 1, train: 7, "
               "validation: 3}", "word",
               "{kind: luong, attention: {kind: location_aware, kernel: 3, window: 2}, hidden: 8, "
               "layers: 1, source: {kind: sound_conv, rate: 2_000, mels: 9, dim: 6, recurrent: 1}}",
               "attnzoo"),
    "pyramid": ("speech", "{kind: spliced, recordings: DIR/spoken, held_out: 1, train: 7, "
                "validation: 3}", "word",
                f"{{kind: transformer, attention: {HEADS}, cross_attention: {HEADS}, dim: 8, "
                "hidden: 8, encoder_layers: 1, decoder_layers: 1, max_length: 27, tied: none, "
                "source: {kind: sound_pyramid, rate: 2_000, mels: 9, dim: 6, halvings: 3}}",
                "attnzoo"),
    "resnet": ("image_classification", IMAGES, "char",
               "{kind: resnet, depth: 8, width: 4, channels: 1}",
               "attnzoo"),
}  # fmt: skip
for _name in ("bahdanau", "gpt2"):
    CASES[f"{_name}-int8"] = (*CASES[_name][:-1], "attnzoo")

# Shapes with open sizes are not ints, which the checker of our annotations wants.
EXPORTER = """
import sys
from pathlib import Path
from attnzoo.cli.export import main

runs, folders = map(Path, sys.argv[1:])
def options(name):
    return ["--weights", "int8"] if name.endswith("-int8") else []


sys.exit(
    max(main([str(r), "--out", str(folders / r.name), *options(r.name)]) for r in runs.iterdir())
)
"""

RUNNER = """
import json, sys
from pathlib import Path
import numpy as np

home = Path(sys.argv[1])
for folder in sorted(home.glob("*/export.json")):
    sys.path.insert(0, str(folder.parent))
    from load import Exported

    model = Exported(folder.parent)
    for program in model.about["programs"]:
        with np.load(home / f"{folder.parent.name}.{program}.in.npz") as given:
            inputs = dict(given)
        np.savez(home / f"{folder.parent.name}.{program}.out.npz", **model(program, **inputs))
print([name for name in ("attnzoo", "flax") if name in sys.modules])
"""


def make_run(name: str, home: Path) -> Run:
    """A run that never trained: its weights are drawn, so that none is zero."""
    task, data, tokenizer, model, _ = CASES[name]
    lines = [
        f"name: {name}",
        f"task: {task}",
        f"data: {data.replace('DIR', str(home / 'data'))}",
        f"tokenizer: {tokenizer}",
        f"model: {model}",
        "training: {steps: 1, batch_size: 4, max_length: 13}",
        "decoding: {max_length: 11}",
    ]
    directory = RunDirectory.create(home / "runs" / name)
    directory.config.write_text("\n".join(lines))
    config = load(ExperimentConfig, directory.config)
    made = TASKS[config.task.kind].create(config, directory.path, resume=False)
    graph, params, rest = nnx.split(made.build_model(), nnx.Param, ...)
    random = np.random.default_rng(3)
    params = jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.5, x.shape), x.dtype), params)
    rest = jax.tree.map(lambda x: jnp.asarray(random.uniform(1, 2, x.shape), x.dtype), rest)
    weights = {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}
    BestCheckpoint(directory.best).offer(5, weights, 0.5)
    trained: Any = nnx.merge(graph, params, rest)
    trained = with_weights(trained, "int8") if name.endswith("-int8") else trained
    return Run(directory, config, made, trained, 5, "best")


def make_data(home: Path) -> None:
    (home / "images").mkdir(parents=True)
    (home / "text").write_text(TEXT * 3)
    words = ["the DET\ncat NOUN\nsat VERB\n", "a DET\ndog NOUN\nran VERB\n"]
    (home / "conll").write_text("\n".join(words * 3))
    rows = [f"u{i % 7}\ti{(i // 7 + i % 7) % 11}\t{i}" for i in range(80)]
    (home / "interactions").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n")
    answer = {"text": "cat", "answer_start": 4}
    asked = [{"id": "a", "question": "who?", "answers": [answer]}]
    squad = {"data": [{"paragraphs": [{"context": "the cat", "qas": asked}]}]}
    (home / "squad.json").write_text(json.dumps(squad))
    (home / "babi").write_text("1 the cat sat .\n2 who sat ?\tcat\t1\n")
    write_recordings(home / "spoken", count=3)
    random = np.random.default_rng(0)
    for kind in ("bright", "dark"):
        (home / "images" / kind).mkdir()
        for i in range(4):
            pixels = random.integers(0, 120, (6, 6)) + (120 if kind == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(home / "images" / kind / f"{i}.png")


def inputs_of(about: dict[str, Any], vocab: int) -> dict[str, np.ndarray]:
    """Arrays of sizes that nothing else here has."""
    sizes = {"B": 3, "S": 9, "T": 5, "M": 7, "J": 2, "Q": 4, "4*H": 8, "4*W": 12}
    random = np.random.default_rng(1)
    made = {}
    for name, array in about["inputs"].items():
        shape = [sizes.get(one, one) for one in array["shape"]]
        high = {"images": 255, "segments": 2, "valid": 2}.get(name, vocab)
        low = 4 if name in ("source", "target", "tokens") else 0
        if array["dtype"] == "float32":  # samples of a sound
            samples, _, letter = shape[1].partition("*")
            assert letter == "L"
            shape[1] = 9 * int(samples)
            made[name] = random.normal(0, 0.1, shape).astype(np.float32)
            made[name][0, 500:] = np.nan
            continue
        made[name] = random.integers(low, high, shape).astype(array["dtype"])
    if "valid" in made:
        made["valid"][:, [0, -1]] = True
    if "source" in made and made["source"].dtype == np.int32:
        made["source"][0, 6:] = 0
    return made


def expected(run: Run, program: str, given: dict[str, jax.Array]) -> dict[str, Any]:
    """What the model says itself."""
    model: Any = run.model
    if run.config.task.kind == "captioning":
        task: Any = run.task
        given = {**given, "source": task.source({"source": given["images"]})}
        del given["images"]
    if program == "image_features":
        towers: Any = run.task
        return {"features": model.image_features(towers.source({"source": given["images"]}))}
    if program == "text_features":
        return {"features": model.text_features(given["tokens"])}
    if program in ("translate", "caption", "transcribe"):
        t5 = run.config.model.kind == "t5"
        room = 13 if t5 else 11
        memory, state = model.start(given["source"], max_length=room)
        found = greedy_search(
            model.step, state, memory, batch=3, max_length=room,
            source_length=model.source_length(given["source"]),
            ids=TokenIds(0, 1, 2),
        )  # fmt: skip
        names = ("tokens", "lengths", "log_probs", "weights")
        return {name: getattr(found, name)[:, 0] for name in names}
    if program == "generate":
        found = generate(model, given["tokens"], max_new_tokens=7, eos_id=2)
        return {"tokens": found.tokens[:, 0], "lengths": found.lengths[:, 0]}
    if program == "detections":
        last = run.task.forward(model, given["images"]).last
        return {"probabilities": jax.nn.sigmoid(last.logits), "boxes": to_corners(last.boxes)}
    if "images" in given:
        task = cast("Any", run.task)
        mean, std = jnp.asarray(task.mean), jnp.asarray(task.std)
        return {"logits": model(normalise(to_float(given["images"]), mean, std))}
    if program == "scores":
        return {"scores": model(given["items"], valid=given["valid"])[:, -1]}
    if program == "answer":
        logits, maps = model(given.pop("stories"), given.pop("question"), **given, capture=True)
        return {"logits": logits, "weights": jnp.stack([m[:, 0, 0] for m in maps.values()], 1)}
    if "source" in given:
        return {"logits": model(given["source"], given["target"])}
    return {"logits": model(given.pop("tokens"), **given)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export")
    make_data(path / "data")
    return path


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[str, Run]:
    return {name: make_run(name, home) for name in CASES}


@pytest.fixture(scope="module")
def results(home: Path, runs: dict[str, Run]) -> Path:
    """Every case exported, and every program run by one process that knows nothing of us."""
    folders = home / "folders"
    folders.mkdir()
    _python(EXPORTER, home / "runs", folders)
    for name, run in runs.items():
        about = json.loads((folders / name / "export.json").read_text())
        tokenizer: Any = getattr(run.task, "tokenizer", None)
        vocab = 11 if tokenizer is None else tokenizer.vocab_size
        for program, described in about["programs"].items():
            file = folders / f"{name}.{program}.in.npz"
            np.savez(file, allow_pickle=False, **inputs_of(described, vocab))
    assert _python(RUNNER, folders) == "[]\n"
    return folders


def _python(program: str, *arguments: Path) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("name", CASES)
def test_an_export_says_what_the_model_says(name: str, results: Path, runs: dict[str, Run]) -> None:
    about = json.loads((results / name / "export.json").read_text())
    assert about["names_of_weights"] == CASES[name][-1]
    assert {file.name for file in runs[name].task.files.values()} <= set(about["sha256"])
    assert about["programs"]
    for program, described in about["programs"].items():
        assert described["fixed"] == {}
        with np.load(results / f"{name}.{program}.in.npz") as given:
            wanted = jax.jit(lambda given: expected(runs[name], program, given))(dict(given))  # noqa: B023
        with np.load(results / f"{name}.{program}.out.npz") as found:
            assert set(found) == set(wanted) == set(described["outputs"])
            for key in found:
                assert np.ptp(found[key]) > 0 or key == "lengths" or "log_probs" in found, key
                near = 1e-6 * float(np.abs(wanted[key]).max())
                np.testing.assert_allclose(found[key], wanted[key], rtol=1e-6, atol=near)


def test_weights_lie_in_the_safetensors_alone_under_the_names_of_the_hub(
    results: Path, runs: dict[str, Run]
) -> None:
    tensors = load_file(results / "gpt2" / "model.safetensors")
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (8, 24)
    assert "fingerprint" not in json.loads((results / "gpt2" / "config.json").read_text())
    tokens = jnp.arange(4, 10).reshape(2, 3)
    model: Any = runs["gpt2"].model
    same = pretrained.load(results / "gpt2")(tokens)  # type: ignore[operator]
    np.testing.assert_array_equal(same, model(tokens))
    # Another tensor is another answer: no copy of it is in the program.
    exported = Exported(results / "gpt2")
    given = {"tokens": np.asarray(tokens, np.int32)}
    before = exported("logits", **given)["logits"]
    exported._weights["transformer.ln_f.weight"] *= 2
    after = exported("logits", **given)["logits"]
    assert np.abs(after - before).max() > 0.1


def test_the_tokenizer_of_a_library_is_its_own_file(results: Path, runs: dict[str, Run]) -> None:
    tokenizer: Any = runs["tags"].task
    ours = tokenizer.tokenizer.encode_ids("the cat ran")
    found = Tokenizer.from_file(str(results / "tags" / "tokenizer.json"))
    assert found.encode("the cat ran", add_special_tokens=False).ids == ours
    assert json.loads((results / "tags" / "export.json").read_text())["labels"] == [
        "DET",
        "NOUN",
        "VERB",
    ]


def test_a_folder_says_what_is_in_it(results: Path) -> None:
    shown = str(Exported(results / "gpt2"))
    assert shown.startswith("gpt2 (step 5)\n")
    assert "  input   tokens: int32[B, T]" in shown
    assert "  limit   T <= 14" in shown
    assert "  limit   T <= 7" in shown
    page = (results / "gpt2" / "README.md").read_text()
    assert 'logits = model("logits", tokens=tokens)["logits"]' in page


def copied(results: Path, tmp_path: Path, **changes: Any) -> Path:
    folder = shutil.copytree(results / "gpt2", tmp_path / "copy")
    about = json.loads((folder / "export.json").read_text()) | changes
    (folder / "export.json").write_text(json.dumps(about | {"digest": digest_of(about)}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 3}, "an export of version 3; this load.py reads 2"),
        ({"format": "other"}, "no export: its 'format' is not 'attnzoo.export'"),
        ({"platforms": ["tpu"]}, "exported for tpu, but jax runs on cpu"),
    ],
)
def test_what_cannot_be_read_is_said(
    results: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Exported(copied(results, tmp_path, **changes))


def test_damage_is_said(results: Path, tmp_path: Path) -> None:
    folder = copied(results, tmp_path)
    for name in ("model.safetensors", "logits.stablehlo", "tokenizer.json", "config.json"):
        content = bytearray((results / "gpt2" / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: damaged"):
            Exported(folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=f"{name}: No such file"):
            Exported(folder)
        shutil.copy(results / "gpt2" / name, folder)
    about = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(about | {"labels": ["no", "yes"]}))
    with pytest.raises(ValueError, match=r"export.json: damaged, its digest"):
        Exported(folder)
    (folder / "export.json").write_text("{")
    with pytest.raises(ValueError, match=r"export.json: damaged"):
        Exported(folder)
    with pytest.raises(ValueError, match="wanted a folder that export wrote"):
        Exported(tmp_path)


def test_inputs_are_checked(results: Path) -> None:
    model = Exported(results / "gpt2")
    tokens = np.ones((2, 3), np.int32)
    for program, given, said in [
        ("translate", {"tokens": tokens}, "program='translate' is none of this model"),
        ("logits", {"ids": tokens}, r"got \['ids'\]; wanted \['tokens'\]"),
        ("logits", {"tokens": tokens.astype(np.int64)}, r"int64\[2, 3\]; wanted int32\[B, T\]"),
        ("logits", {"tokens": tokens[0]}, r"int32\[3\]; wanted int32\[B, T\]"),
        ("logits", {"tokens": np.ones((2, 15), np.int32)}, "T is 15; wanted T <= 14"),
        ("generate", {"tokens": np.ones((2, 0), np.int32)}, "T is 0; wanted T >= 1"),
    ]:
        with pytest.raises(ValueError, match=said):
            model(program, **given)
    images = Exported(results / "resnet")
    with pytest.raises(ValueError, match=r"uint8\[2, 8, 6, 1\]; wanted uint8\[B, 4\*H, 4\*W, 1\]"):
        images("logits", images=np.zeros((2, 8, 6, 1), np.uint8))
    masked = Exported(results / "masked")
    with pytest.raises(ValueError, match=r"valid is bool\[2, 4\]; wanted bool\[B, T\]"):
        masked("logits", tokens=tokens, segments=tokens, valid=np.ones((2, 4), bool))


def test_a_command_that_cannot_export_says_why(
    home: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = home / "runs" / "gpt2", tmp_path / "out"
    for arguments, said in [
        ([home], "not a run directory (it has no config.yaml)"),
        ([run, "--platforms", "metal"], "--platforms metal: wanted some of cpu, cuda, tpu"),
        ([run, "--max-new-tokens", "14"], "--max-new-tokens 14: the model has 14 positions"),
        ([run, "--max-new-tokens", "0"], "--max-new-tokens 0: wanted at least 1"),
        ([run, "--out", results], "not an empty folder; choose another one"),
    ]:
        command = ["export", *map(str, arguments)]
        if "--out" not in command:
            command += ["--out", str(out)]
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        *warnings, last = error.splitlines()
        assert said in last
        assert all(line.startswith("warning: ") for line in warnings)
        assert not out.exists()
        assert list(tmp_path.iterdir()) == []
