"""Help for configs: short, by parts, whole sentences, every field once, without jax."""

import contextlib
import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from attnzoo.cli import train
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.help import help_text, index, part
from attnzoo.config.schema import fields_of, kind_of
from attnzoo.errors import UserError

ALL = help_text(ExperimentConfig)


def nested(annotation: object) -> list[type]:
    """The dataclasses in an annotation, found without the code under test."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [cls for part in get_args(annotation) for cls in nested(part)]


def places(cls: type, prefix: str = "") -> Iterator[tuple[str, type, str, type | None]]:
    """(path, class, field, kind's class or None) of every field and every kind in the config."""
    for field in dataclasses.fields(cls):
        if field.name == "kind":
            continue
        path = f"{prefix}{field.name}"
        yield path, cls, field.name, None
        classes = nested(field.type)
        for one in classes:
            if len(classes) > 1:
                yield f"{path}.{kind_of(one)}", cls, field.name, one
            yield from places(one, f"{path}.")


PLACES = list(dict.fromkeys(places(ExperimentConfig)))
CLASSES = {cls for _, cls, _, _ in PLACES} | {kind for *_, kind in PLACES if kind is not None}


def words(text: str) -> str:
    return " ".join(text.split())


def summary(cls: type) -> str:
    return words((inspect.getdoc(cls) or "").split("\n\n")[0])


def test_every_field_and_every_kind_is_a_part_with_its_whole_sentences() -> None:
    assert len(PLACES) > 500
    texts = {path: words(part(ExperimentConfig, path)) for path in {place[0] for place in PLACES}}
    for path, cls, name, kind in PLACES:
        said = texts[path]
        if kind is None:
            meaning = fields_of(cls)[name].meaning
            assert meaning.endswith(".")
            assert f"{path}: " in said
            assert meaning in said, (path, cls)
        else:
            field, _, last = path.rpartition(".")
            assert f"{field}={last} {summary(kind)}" in said or summary(kind) in said
            for field_of_kind in dataclasses.fields(kind):
                assert field_of_kind.name == "kind" or f"{field}.{field_of_kind.name}: " in said
            assert f" {last} {summary(kind)}" in texts[field]


def test_all_has_the_fields_of_every_class_once() -> None:
    said = words(ALL)
    for cls in CLASSES:
        assert summary(cls).endswith((".", ":")), cls
        if any(kind is cls for *_, kind in PLACES):
            assert summary(cls) in said
        for field in dataclasses.fields(cls):
            assert field.name == "kind" or fields_of(cls)[field.name].meaning in said
    headings = re.findall(r"^ *([\w.]+=\w+)$", ALL, re.MULTILINE)
    assert len(headings) == len({(path, kind) for path, _, _, kind in PLACES if kind is not None})
    assert (
        said.count("Number of heads of keys and values: 1 is multi-query, more is grouped-query")
        == 1
    )


def test_the_help_shows_type_default_and_meaning() -> None:
    assert (
        "  training.learning_rate: float > 0 (default: 0.001)\n      Highest learning rate.\n"
    ) in ALL
    assert "name: string that is not empty (required)\n" in ALL
    assert "training: a mapping\n    How it is trained.\n" in ALL
    assert part(ExperimentConfig, "model.attention.additive").startswith(
        "model.attention=additive\n"
        "    v . tanh(W query + U key) (Bahdanau et al. 2015, appendix A.1.2).\n"
        "  model.attention.width: int > 0 or null (default: null)\n"
        "      Width of the alignment layer; null: that of the queries.\n"
    )
    assert 'data.source_language: string (default: "")\n' in ALL
    assert "training.buckets: list of int > 0 that is not empty or null (default: null)\n" in ALL
    assert (
        "tokenizer: word | bpe | unigram | char | byte | byte_bpe | wordpiece | file "
        "(default: word)\n"
    ) in ALL
    assert part(ExperimentConfig, "training.tensorboard").startswith(
        "training.tensorboard: true or false (default: true)\n"
    )


def test_a_field_that_differs_says_where() -> None:
    said = part(ExperimentConfig, "data.train")
    assert "data.train: int > 0 (default: 30000), for data=cldr\n    Training pairs.\n" in said
    files = "data.train: list of path (default: []), for data"
    assert f"{files}=labelled_text | questions | stories | speech\n" in said
    # The kind is known: nothing else of that name is told.
    one = part(ExperimentConfig, "data.cldr.train")
    assert one == "data.cldr.train: int > 0 (default: 30000)\n    Training pairs.\n"
    assert part(ExperimentConfig, "data=cldr") == part(ExperimentConfig, "data.cldr").replace(
        "data.cldr=", "data="
    )


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("model.atention", "model.attention"),
        ("model.attention.multi_hed", "model.attention.multi_head"),
        ("optimizer", "training.optimizer"),
        ("multihead", "model.attention.multi_head"),
        ("training.optimizer.adm", "training.optimizer.adam"),
        ("training.seed.x", "--help lists the sections"),
        ("", "--help lists the sections"),
    ],
)
def test_an_unknown_part_is_one_line_with_what_was_meant(asked: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        part(ExperimentConfig, asked)
    said = str(caught.value)
    assert said.startswith(f"--help {asked}: no such part of a config (")
    assert meant in said
    assert "\n" not in said


def test_the_command_shows_its_options_and_sections_or_one_part(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(*arguments: str) -> str:
        with contextlib.suppress(SystemExit):
            assert train.main(["--help", *arguments]) == 2
            return capsys.readouterr().err
        return capsys.readouterr().out

    short = said()
    assert index(ExperimentConfig) in short
    assert len(short.splitlines()) < 80
    for name in fields_of(ExperimentConfig):
        assert f"\n  {name} " in short
    assert said("training.optimizer") == part(ExperimentConfig, "training.optimizer")
    assert said("all") == ALL
    assert said("optimizr") == (
        "error: --help optimizr: no such part of a config (did you mean training.optimizer?)\n"
    )


def test_the_help_needs_neither_jax_nor_pydantic(root: Path) -> None:
    program = (
        "import sys; from attnzoo.cli import main\n"
        "try: main(['train', '--help', 'all'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('jax', 'flax', 'pydantic', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert ran.stdout == f"{ALL}[]\n", ran.stderr
