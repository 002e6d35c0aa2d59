# Over 400 lines: a list, a line for each mistake that a config can have.
"""Loading configs: composition, overrides, and each kind of mistake by its exact line."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from attnzoo.config.attention import (
    AdditiveConfig,
    DotConfig,
    GeneralConfig,
    LocalMConfig,
    LocalPConfig,
)
from attnzoo.config.data import (
    BpeTokenizerConfig,
    CldrConfig,
    FilePartConfig,
    FilesConfig,
    HubConfig,
    SyntheticConfig,
)
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import dump, load
from attnzoo.config.model import BahdanauConfig, LuongConfig, Model
from attnzoo.config.training import (
    AdadeltaConfig,
    AdamConfig,
    CosineConfig,
    SgdConfig,
    TrainingConfig,
)
from attnzoo.errors import UserError

GOOD = "name: good\ntraining: {epochs: 3}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "configs/bad.yaml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def with_models(line: str) -> str:
    """The line with the kinds of models that there are, whichever these have become."""
    kinds = [cls.kind for cls in get_args(get_args(Model)[0])]
    return line.replace("MODELS", ", ".join(kinds)).replace("A_MODEL", " | ".join(kinds))


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(ExperimentConfig, write(text), overrides)
    return str(caught.value)


def good(*overrides: str) -> ExperimentConfig:
    return load(ExperimentConfig, write(GOOD, "configs/good.yaml"), overrides)


def test_defaults_are_those_of_the_classes() -> None:
    assert good() == ExperimentConfig(name="good", training=TrainingConfig(epochs=3))


def test_a_file_says_everything() -> None:
    path = write(
        """\
name: all-in_1.0
data:
  kind: files
  train: {source: a.en.gz, target: a.fr.gz, links: a.links}
  test:
    table: test.tsv
  links_reversed: true
tokenizer: {kind: bpe, vocab_size: 4_000}
model:
  kind: luong
  attention: {kind: local_p, score: dot}
  hidden: 7
training:
  steps: 11
  buckets: [5, 13]
  optimizer: {kind: adadelta, eps: 1e-7}
  learning_rate: 1
  schedule: {kind: cosine, warmup: 3}
  clip_norm: null
directory: elsewhere/run
"""
    )
    assert load(ExperimentConfig, path) == ExperimentConfig(
        name="all-in_1.0",
        data=FilesConfig(
            train=FilePartConfig(
                source=Path("a.en.gz"), target=Path("a.fr.gz"), links=Path("a.links")
            ),
            test=FilePartConfig(table=Path("test.tsv")),
            links_reversed=True,
        ),
        tokenizer=BpeTokenizerConfig(vocab_size=4000),
        model=LuongConfig(attention=LocalPConfig(score="dot"), hidden=7),
        training=TrainingConfig(
            steps=11,
            buckets=(5, 13),
            optimizer=AdadeltaConfig(eps=1e-7),
            learning_rate=1.0,
            schedule=CosineConfig(warmup=3),
            clip_norm=None,
        ),
        directory=Path("elsewhere/run"),
    )


def test_a_whole_number_may_stand_for_a_float_and_becomes_one() -> None:
    rate = good("training.learning_rate=1").training.learning_rate
    assert (rate, type(rate)) == (1.0, float)


# Composition


def test_keys_go_over_those_of_the_base() -> None:
    write("name: parent\nmodel: {attention: dot, hidden: 7}\ntraining: {epochs: 3}\n", "p.yaml")
    path = write("base: ../p.yaml\nname: child\nmodel: {hidden: 11, embedding: 5}\n")
    assert load(ExperimentConfig, path) == ExperimentConfig(
        name="child",
        model=BahdanauConfig(attention=DotConfig(), hidden=11, embedding=5),
        training=TrainingConfig(epochs=3),
    )


def test_bases_have_bases() -> None:
    write("name: a\ntraining: {epochs: 3, seed: 1, batch_size: 5}\n", "configs/a.yaml")
    write("base: a.yaml\nname: b\ntraining: {seed: 2}\n", "configs/b.yaml")
    loaded = load(ExperimentConfig, write("base: b.yaml\ntraining: {steps: 7}\n"))
    assert loaded.name == "b"
    assert loaded.training == TrainingConfig(epochs=3, seed=2, batch_size=5, steps=7)


def test_another_kind_in_the_child_drops_what_belonged_to_the_parents() -> None:
    write("name: a\nmodel: {attention: {kind: additive, width: 7}, maxout: 5}\n", "configs/a.yaml")
    path = write("base: a.yaml\nmodel: {attention: general}\ntraining: {epochs: 3}\n")
    assert load(ExperimentConfig, path).model == BahdanauConfig(attention=GeneralConfig(), maxout=5)
    path = write("base: a.yaml\nmodel: {kind: luong, layers: 3}\ntraining: {epochs: 3}\n")
    assert load(ExperimentConfig, path).model == LuongConfig(layers=3)


def test_a_parameter_goes_into_the_parents_short_form() -> None:
    write("name: a\nmodel: {attention: local_m}\ntraining: {epochs: 3}\n", "configs/a.yaml")
    path = write("base: a.yaml\nmodel: {attention: {window: 5}}\n")
    assert load(ExperimentConfig, path).model.attention == LocalMConfig(window=5)


def test_a_kind_left_out_is_that_of_the_default() -> None:
    path = write("name: a\ntraining: {epochs: 3, optimizer: {b2: 0.98}}\n")
    assert load(ExperimentConfig, path).training.optimizer == AdamConfig(b2=0.98)


# Overrides


def test_overrides_go_over_the_file() -> None:
    loaded = good("training.seed=7", "model.hidden=13", "name=other", "data.target_locale=no")
    assert loaded == ExperimentConfig(
        name="other",
        data=CldrConfig(target_locale="no"),
        model=BahdanauConfig(hidden=13),
        training=TrainingConfig(epochs=3, seed=7),
    )


def test_an_override_is_read_as_yaml() -> None:
    assert good("training.learning_rate=3e-4").training.learning_rate == 3e-4
    assert good("training.buckets=[3, 5]").training.buckets == (3, 5)
    assert good("training.clip_norm=null").training.clip_norm is None
    assert good("training.tensorboard=false").training.tensorboard is False
    assert good("data={kind: synthetic, task: sort}").data == SyntheticConfig(task="sort")


def test_the_last_of_two_equal_overrides_counts() -> None:
    assert good("training.seed=2", "training.seed=3").training.seed == 3


@pytest.mark.parametrize("swap", [False, True])
def test_overrides_of_a_kind_and_its_fields_come_in_any_order(swap: bool) -> None:
    overrides = ["model.attention=local_m", "model.attention.window=5"]
    loaded = good(*reversed(overrides) if swap else overrides)
    assert loaded.model == BahdanauConfig(attention=LocalMConfig(window=5))


def test_an_overridden_kind_drops_the_fields_of_the_file() -> None:
    path = write(
        "name: a\ntraining: {epochs: 3, optimizer: {kind: adadelta, rho: 0.9}}\n"
        "model: {attention: {kind: additive, width: 7}}\n"
    )
    loaded = load(
        ExperimentConfig, path, ["training.optimizer=sgd", "model.attention.kind=local_p"]
    )
    assert loaded.training.optimizer == SgdConfig()
    assert loaded.model == BahdanauConfig(attention=LocalPConfig())
    same = load(ExperimentConfig, path, ["training.optimizer.eps=1e-8", "model.attention=additive"])
    assert same.training.optimizer == AdadeltaConfig(rho=0.9, eps=1e-8)
    assert same.model == BahdanauConfig(attention=AdditiveConfig(width=7))


def test_overrides_alone_make_a_config() -> None:
    loaded = load(ExperimentConfig, None, ["name=a", "training.steps=5"])
    assert loaded == ExperimentConfig(name="a", training=TrainingConfig(steps=5))


# Mistakes in a file: the exact line for each


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            GOOD + "model: {kind: bahdanau, hiden: 3}\n",
            "configs/bad.yaml:3:25: model.hiden: unknown key (did you mean 'hidden'?)",
        ),
        (
            GOOD + "decoding: {xyzzy: 3}\n",
            "configs/bad.yaml:3:12: decoding.xyzzy: unknown key "
            "(known: beam, length_penalty, max_length, batch_size)",
        ),
        (
            GOOD + "batch_size: 3\n",
            "configs/bad.yaml:3:1: batch_size: unknown key "
            "(did you mean 'training.batch_size' or 'decoding.batch_size'?)",
        ),
        (
            GOOD + "model: {attention: {kind: dot, width: 3}}\n",
            "configs/bad.yaml:3:32: model.attention.width: unknown key for kind 'dot' "
            "(it belongs to additive, coverage, location_aware, concat)",
        ),
        (
            GOOD + 'model: {hidden: "7"}\n',
            "configs/bad.yaml:3:17: model.hidden: expected int > 0, got the string '7'",
        ),
        (
            GOOD + "model:\n  hidden: 7.5\n",
            "configs/bad.yaml:4:11: model.hidden: expected int > 0, got the number 7.5",
        ),
        (
            GOOD + "model:\n  hidden: -7\n",
            "configs/bad.yaml:4:11: model.hidden: expected int > 0, got the number -7",
        ),
        (
            GOOD + "model: {hidden: true}\n",
            "configs/bad.yaml:3:17: model.hidden: expected int > 0, got true",
        ),
        (
            GOOD + "model: {dropout: 1.0}\n",
            "configs/bad.yaml:3:18: model.dropout: expected float >= 0 and < 1, got the number 1.0",
        ),
        (
            GOOD + "model: {dropout: .nan}\n",
            "configs/bad.yaml:3:18: model.dropout: expected float >= 0 and < 1, got the number nan",
        ),
        (
            "name: 2015\ntraining: {epochs: 3}\n",
            "configs/bad.yaml:1:7: name: expected string that is not empty, got the number 2015 "
            '(in quotes it is one: "...")',
        ),
        (
            "name: a\ntraining: {epochs: 3, tensorboard: yes}\n",
            "configs/bad.yaml:2:36: training.tensorboard: expected true or false, "
            "got the string 'yes'",
        ),
        (
            "name: a\ntraining: {epochs: 3, batch_size: null}\n",
            "configs/bad.yaml:2:35: training.batch_size: expected int > 0, got null",
        ),
        (
            "name: a\ntraining: {epochs: 3, buckets: [3, x]}\n",
            "configs/bad.yaml:2:36: training.buckets[1]: expected int > 0, got the string 'x'",
        ),
        (
            "name: a\ntraining: {epochs: 3, buckets: [5, 3]}\n",
            "configs/bad.yaml:2:32: training: buckets=[5, 3]; wanted increasing lengths",
        ),
        (
            GOOD + "tokenizer: {split: whitspace}\n",
            "configs/bad.yaml:3:20: tokenizer.split: expected whitespace | punctuation, "
            "got the string 'whitspace' (did you mean 'whitespace'?)",
        ),
        (
            GOOD + "model: {attention: adaptive}\n",
            "configs/bad.yaml:3:20: model.attention.kind: unknown kind 'adaptive' "
            "(did you mean 'additive'?)",
        ),
        (
            GOOD + "model: {kind: mlp}\n",
            "configs/bad.yaml:3:15: model.kind: unknown kind 'mlp' (known: MODELS)",
        ),
        (
            GOOD + "model: {kind: [luong]}\n",
            "configs/bad.yaml:3:15: model.kind: unknown kind, a list (known: MODELS)",
        ),
        (
            GOOD + "model: 7\n",
            "configs/bad.yaml:3:8: model: expected A_MODEL, got the number 7",
        ),
        (
            GOOD + "target_tokenizer: {vocab_size: 7}\n",
            "configs/bad.yaml:3:1: target_tokenizer.kind: missing (one of word, bpe, "
            "unigram, char, byte, byte_bpe, wordpiece, file)",
        ),
        (
            GOOD + "decoding: [3]\n",
            "configs/bad.yaml:3:11: decoding: expected a mapping, got a list",
        ),
        (
            "name: a\n",
            "configs/bad.yaml: training: missing (a mapping: How it is trained)",
        ),
        (
            "name: a\ntraining: {seed: 3}\n",
            "configs/bad.yaml:2:1: training: give 'steps', 'epochs' or both",
        ),
        (
            GOOD + "data:\n  kind: files\n  train: {table: a, source: b}\n",
            "configs/bad.yaml:5:3: data.train: 'table' excludes 'source', 'target', 'links' and "
            "'records'",
        ),
        (
            GOOD + "data: {kind: hub, name: json, data_files: {train: 3}}\n",
            "configs/bad.yaml:3:51: data.data_files.train: expected path, got the number 3 "
            '(in quotes it is one: "...")',
        ),
        (
            "name: a/b\ntraining: {epochs: 3}\n",
            "configs/bad.yaml:1:7: name='a/b': letters, digits, '-', '_' and '.' are wanted",
        ),
        (
            GOOD + "model: {hidden: 3, hidden: 5}\n",
            "configs/bad.yaml:3:20: model.hidden: duplicate key (first at configs/bad.yaml:3:9)",
        ),
        (
            GOOD + "name: again\n",
            "configs/bad.yaml:3:1: name: duplicate key (first at configs/bad.yaml:1:1)",
        ),
        (
            GOOD + "model: {3: x}\n",
            "configs/bad.yaml:3:9: model: key 3 is not a string",
        ),
        (
            GOOD + "model: [3\n",
            "configs/bad.yaml:4:1: while parsing a flow sequence, expected ',' or ']', "
            "but got '<stream end>'",
        ),
        (
            GOOD + "model: !!python/object/apply:os.getcwd []\n",
            "configs/bad.yaml:3:8: model: expected A_MODEL, got a list",
        ),
        (
            GOOD + "directory: !!python/name:os.getcwd x\n",
            "configs/bad.yaml:3:12: directory: tag tag:yaml.org,2002:python/name:os.getcwd "
            "cannot be used for 'x'",
        ),
        (
            GOOD + "decoding: &a {beam: *a}\n",
            "configs/bad.yaml:3:11: decoding.beam: an alias of what it stands in",
        ),
        (
            GOOD + "...\n---\nx: 1\n",
            "configs/bad.yaml:4:1: expected a single document in the stream, "
            "but found another document",
        ),
        ("- name\n", "configs/bad.yaml:1:1: a mapping of keys to values is wanted at the top"),
        ("base: [a]\n", "configs/bad.yaml:1:7: base: the path of another config is wanted"),
    ],
)
def test_one_mistake_is_one_line(text: str, line: str) -> None:
    assert complaint(text) == with_models(line)


def test_every_mistake_is_listed_in_the_order_of_the_file() -> None:
    text = "name: 3\ntraning: {}\nmodel: {hiden: 3, maxout: x}\ntraining: {epochs: 0}\n"
    places = [line.split(": ")[:2] for line in complaint(text).splitlines()]
    assert places == [
        ["configs/bad.yaml:1:7", "name"],
        ["configs/bad.yaml:2:1", "traning"],
        ["configs/bad.yaml:3:9", "model.hiden"],
        ["configs/bad.yaml:3:27", "model.maxout"],
        ["configs/bad.yaml:4:20", "training.epochs"],
    ]


def test_an_empty_file_lacks_what_is_required() -> None:
    assert [line.partition(":")[2].split(":")[0] for line in complaint("").splitlines()] == [
        " name",
        " training",
    ]


def test_a_mistake_in_the_base_is_placed_there() -> None:
    write("name: a\nmodel: {hiden: 3}\ntraining: {epochs: 3}\n", "configs/a.yaml")
    assert complaint("base: a.yaml\n") == (
        "configs/a.yaml:2:9: model.hiden: unknown key (did you mean 'hidden'?)"
    )


def test_a_circle_of_bases_is_named() -> None:
    write("base: bad.yaml\n", "configs/b.yaml")
    assert complaint("base: b.yaml\n") == (
        "configs/b.yaml:1:7: base: a circle, configs/bad.yaml -> configs/b.yaml -> configs/bad.yaml"
    )


def test_a_missing_base_names_the_nearest_config() -> None:
    write(GOOD, "configs/parent.yaml")
    assert complaint("base: parnt.yaml\n") == (
        "configs/bad.yaml:1:7: base: parnt.yaml: no such file (did you mean configs/parent.yaml?)"
    )


def test_a_missing_file_names_the_nearest_config() -> None:
    write(GOOD, "configs/tatoeba-en-fr.yaml")
    for path in ("configs/tatoeba-fr.yaml", "tatoeba_en_fr.yaml"):
        with pytest.raises(UserError) as caught:
            load(ExperimentConfig, path)
        assert str(caught.value) == (
            f"{path}: no such file (did you mean configs/tatoeba-en-fr.yaml?)"
        )
    with pytest.raises(UserError, match=r"^configs: is a directory$"):
        load(ExperimentConfig, "configs")


def test_a_file_that_is_not_text() -> None:
    Path("configs/bad.yaml").write_bytes(b"name: a\n# caf\xe9\n")
    with pytest.raises(UserError, match=r"^configs/bad.yaml:2: not UTF-8 \(byte 0xe9\)$"):
        load(ExperimentConfig, "configs/bad.yaml")
    assert complaint("name: a\nx: \x07\n") == (
        "configs/bad.yaml:2: character #x0007 is not allowed"
    )
    assert complaint("x: " + "[" * 700) == "configs/bad.yaml:1:53: nested too deeply"


# Mistakes on the command line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.hiden=3", "command line: model.hiden: unknown key (did you mean 'hidden'?)"),
        ("training.seed=x", "command line: training.seed: expected int >= 0, got the string 'x'"),
        ("training.seed.x=3", "command line: training.seed: expected int >= 0, got a mapping"),
        ("training.epochs=null", "command line: training: give 'steps', 'epochs' or both"),
        (
            "model.attention=adaptive",
            "command line: model.attention.kind: unknown kind 'adaptive' "
            "(did you mean 'additive'?)",
        ),
        ("model=null", "command line: model: expected A_MODEL, got null"),
        (
            "name=!x y",
            "command line: name: tag !x cannot be used for 'y'",
        ),
        ("training", "command line: 'training' is not of the form key=value"),
        ("a..b=3", "command line: 'a..b=3' is not of the form key=value"),
        (
            "hidden=3",
            "command line: hidden: unknown key (did you mean 'model.hidden' or "
            "'model.source.hidden' or 'model.image.hidden'?)",
        ),
        (
            "name=[a",
            "command line: name: while parsing a flow sequence, expected ',' or ']', "
            "but got '<stream end>'",
        ),
        (
            "data=hub",
            "command line: data.name: missing (string that is not empty: Name of the data set, "
            "or json, csv, text, parquet together with `data_files`)",
        ),
    ],
)
def test_one_mistake_on_the_command_line_is_one_line(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        good(override)
    assert str(caught.value) == with_models(line)


# Writing


@pytest.mark.parametrize(
    "value",
    [
        ExperimentConfig(name="a", training=TrainingConfig(epochs=3)),
        ExperimentConfig(
            name="no",
            data=HubConfig(name="1e-4", config="2015-09-08", data_files={"train": Path("on")}),
            target_tokenizer=BpeTokenizerConfig(),
            model=LuongConfig.small(LocalPConfig(window=3)),
            training=TrainingConfig(
                steps=5, buckets=(3, 7), optimizer=AdadeltaConfig(), clip_norm=None
            ),
            directory=Path("true"),
        ),
        ExperimentConfig(
            name="a",
            data=FilesConfig(
                train=FilePartConfig(table=Path("été: #1.tsv")), source_language="0x1F"
            ),
            training=TrainingConfig(
                epochs=1, learning_rate=1e-30, schedule=CosineConfig(final=1.0)
            ),
        ),
    ],
)
def test_what_is_dumped_is_loaded_again(value: ExperimentConfig) -> None:
    path = write(dump(value))
    assert load(ExperimentConfig, path) == value
    assert dump(load(ExperimentConfig, path)) == dump(value)
    changed = replace(value, model=replace(value.model, hidden=value.model.hidden + 1))
    assert load(ExperimentConfig, write(dump(changed))) != value
