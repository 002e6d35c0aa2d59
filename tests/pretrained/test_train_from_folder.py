"""Training that starts from the folder of a pretrained translator: its tokenizers, its marks."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_folders import LANGUAGES, tiny_folder

import attnzoo
from attnzoo import pretrained
from attnzoo.cli.convert import main as convert_main
from attnzoo.cli.convert import take_origin
from attnzoo.config.data import FilePartConfig, FilesConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.config.training import TrainingConfig
from attnzoo.data.tokenizers import Tokenizer
from attnzoo.errors import UserError
from attnzoo.export.programs import programs
from attnzoo.files import read_json
from attnzoo.models.model import TranslationModel
from attnzoo.planning.plan import Planner
from attnzoo.pretrained import files
from attnzoo.pretrained.origin import keep_in_run
from attnzoo.training.loop import train
from attnzoo.training.start import create_task, inherit, taken_from_folder

TRANSLATORS = [
    kind
    for kind, family in pretrained.FAMILIES.items()
    if isinstance(family.model, type)
    and issubclass(family.model, TranslationModel)
    and kind != "whisper"  # it reads sounds
]
SOURCES = ["a cat sat on the mat .", "the dog sat", "a cat", "on the mat sat a dog ."]
TARGETS = ["the cat sat", "a dog sat on a mat .", "the cat .", "a dog"]
CODES = {
    "marian": ("en", "ro"),
    "t5": ("English", "German"),
    **{kind: tuple(code.strip("_")[:2] for code in codes) for kind, codes in LANGUAGES.items()},
}


def config_of(kind: str, home: Path, **settings: Any) -> ExperimentConfig:
    """A training on four pairs that starts from a tiny folder of this family."""
    folder = home / "folder"
    if not folder.exists():
        tiny_folder(kind, folder)
    for side, lines in (("source", SOURCES), ("target", TARGETS)):
        (home / side).write_text("".join(f"{line}\n" for line in lines))
    part = FilePartConfig(source=home / "source", target=home / "target")
    languages = CODES.get(kind, ("", ""))
    names = dict(zip(("source_language", "target_language"), languages, strict=True))
    return ExperimentConfig(
        name="tiny",
        data=FilesConfig(train=part, validation=part, **names),
        start_from=folder,
        directory=home / "run",
        training=TrainingConfig(steps=1, batch_size=4, learning_rate=1e-9, max_length=20),
        **settings,
    )


def created(config: ExperimentConfig, home: Path) -> Any:
    home.mkdir(exist_ok=True)
    return create_task(config, home)


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_batches_are_those_that_the_folder_reads(kind: str, tmp_path: Path) -> None:
    config, _ = inherit(config_of(kind, tmp_path))
    task = created(config, tmp_path / "run")
    codes = CODES.get(kind, (None, None))
    folder: Any = attnzoo.open(
        config.start_from, source_language=codes[0], target_language=codes[1]
    )
    translator, pad = folder.translator(), folder.model.config.pad_id
    assert config.model == folder.model.config
    batch = task.validation.batch(0)
    for row, number in enumerate(batch["rows"]):
        pair = [
            tokenizer.encode(lines[number])
            for tokenizer, lines in (
                (translator.source_tokenizer, SOURCES),
                (translator.target_tokenizer, TARGETS),
            )
        ]
        for side, ids in zip(("source", "target"), translator.pair(*pair), strict=True):
            got = batch[side][row].tolist()
            assert got == [*ids, *[pad] * (len(got) - len(ids))]
    assert {int(x) for x in batch["target"].ravel()} > {pad}
    again = type(task).open(config, tmp_path / "run")
    for side in ("source", "target"):
        kept, read = getattr(task.tokenizers, side), getattr(again.tokenizers, side)
        copied: Tokenizer = pickle.loads(pickle.dumps(kept))
        assert kept.fingerprint() == read.fingerprint() == copied.fingerprint()
        many, lengths = read.encode_many([*SOURCES, "", "  ", "zz"])
        each = [kept.encode(text).ids for text in [*SOURCES, "", "  ", "zz"]]
        assert many.tolist() == [i for ids in each for i in ids]
        assert lengths.tolist() == list(map(len, each))
        assert read.decode(each[0]) == kept.decode(each[0])


IDS = {"eos_token_id": [2, 3], "forced_eos_token_id": 2, "bos_token_id": 3, "pad_token_id": 1}
GENERATION = IDS | {"num_beams": 3, "max_length": 19}


def with_generation(kind: str, folder: Path) -> Path:
    """Write a tiny folder with ids and settings of generation of its own."""
    tiny_folder(kind, folder)
    fields, path = pretrained.FAMILIES[kind].fields, folder / "config.json"
    config = read_json(path)
    parts = [(config[name], one) for name, (_, one) in fields.parts.items() if name in config]
    for part, known in ((config, fields), *parts):
        part |= {name: one for name, one in IDS.items() if name in known.without_effect}
    files.write_json(path, config)
    files.write_json(folder / "generation_config.json", GENERATION)
    return folder


def kept_of(folder: Path) -> dict[str, Any]:
    """The ids of config.json, those of its parts too, and generation_config.json."""
    config = read_json(folder / "config.json")
    parts = {name: one for name, one in config.items() if isinstance(one, dict)}
    ids = {
        (place, name): value
        for place, one in {"": config, **parts}.items()
        for name, value in one.items()
        if name.endswith("_token_id")
    }
    return {"ids": ids, "generation": read_json(folder / "generation_config.json")}


@pytest.mark.parametrize("kind", pretrained.FAMILIES)
def test_a_run_keeps_ids_and_generation_of_its_folder(kind: str, tmp_path: Path) -> None:
    folder = with_generation(kind, tmp_path / "folder")
    (tmp_path / "run").mkdir()
    (tmp_path / "next").mkdir()
    keep_in_run(folder, tmp_path / "run")
    keep_in_run(tmp_path / "run", tmp_path / "next")  # which starts from the run
    model: Any = pretrained.load(folder)
    model.origin = None  # as the task of a run builds it
    take_origin(model, tmp_path / "next")
    pretrained.save(model, tmp_path / "again")
    assert kept_of(tmp_path / "again") == kept_of(folder)
    pretrained.save_own(model, tmp_path / "own")
    pretrained.save(pretrained.load(tmp_path / "own"), tmp_path / "third")
    assert kept_of(tmp_path / "third") == kept_of(folder)


def test_a_run_begins_as_its_folder_and_translates_as_it(tmp_path: Path) -> None:
    with_generation("m2m_100", tmp_path / "folder")
    config = config_of("m2m_100", tmp_path)
    train(config)
    codes = CODES["m2m_100"]
    folder: Any = attnzoo.open(
        tmp_path / "folder", source_language=codes[0], target_language=codes[1]
    )
    run: Any = attnzoo.open(tmp_path / "run")
    found = [one.translator(batch_size=4).force(SOURCES, TARGETS) for one in (folder, run)]
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-4, atol=1e-5)
    texts = [
        [said.text for said in one.translator(batch_size=4).translate(SOURCES, beam=1)]
        for one in (folder, run)
    ]
    assert texts[0] == texts[1]
    assert set(programs(run)) == {"translate", "logits"}  # the model has fewer than 100 positions
    assert convert_main([str(tmp_path / "run"), str(tmp_path / "again")]) == 0
    assert kept_of(tmp_path / "again") == kept_of(tmp_path / "folder")
    kept = load(ExperimentConfig, tmp_path / "run" / "config.yaml")
    more = dataclasses.replace(kept, training=dataclasses.replace(kept.training, steps=2))
    assert train(more, resume=True).step == 2


@pytest.mark.parametrize(
    ("kind", "settings", "wanted"),
    [
        ("m2m_100", {"source_language": "xx"}, "no language of this model"),
        ("m2m_100", {"target_language": ""}, "wanted data.target_language"),
        ("bert", {}, "wanted a translator"),
    ],
)
def test_refused_in_one_line(
    kind: str, settings: dict[str, str], wanted: str, tmp_path: Path
) -> None:
    config = config_of(kind, tmp_path)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **settings))
    with pytest.raises(UserError, match=wanted) as error:
        taken_from_folder(config)
    assert str(error.value).startswith(f"start_from={tmp_path / 'folder'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["t5", "mbart"])
def test_a_plan_counts_the_weights_of_the_folder(kind: str, tmp_path: Path) -> None:
    plan = Planner("cpu", ahead=False).plan(config_of(kind, tmp_path))
    model = pretrained.load(tmp_path / "folder")
    assert plan.parameters == sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_a_tokenizer_of_ones_own_is_refused(tmp_path: Path) -> None:
    config = config_of("marian", tmp_path, shared_vocabulary=True)
    with pytest.raises(UserError, match="shared_vocabulary"):
        inherit(config)
