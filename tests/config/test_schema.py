"""The help lists every field; configs are light to import; classes say what they need to."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from attnzoo.config.data import Data, Tokenizer
from attnzoo.config.experiment import Experiment
from attnzoo.config.model import Bahdanau, Luong, Model
from attnzoo.config.schema import dotted_names, fields_of, help_text, kind_of
from attnzoo.config.training import Adadelta, Training

HELP = help_text(Experiment)


def nested(annotation: object) -> list[type]:
    """The dataclasses in an annotation, found without the code under test."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [cls for part in get_args(annotation) for cls in nested(part)]


def every_field(cls: type, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(cls):
        if field.name != "kind":
            yield prefix + field.name
        for part in nested(field.type):
            yield from every_field(part, f"{prefix}{field.name}.")


def test_the_help_lists_every_field_of_every_kind_with_its_meaning() -> None:
    lines = HELP.splitlines()
    listed = [
        (line.strip().split(": ")[0], below.strip())
        for line, below in pairwise(lines)
        if ": " in line and len(below) - len(below.lstrip()) == len(line) - len(line.lstrip()) + 4
    ]
    names = [name for name, _ in listed]
    assert sorted(names) == sorted(every_field(Experiment))
    assert len(names) > 100
    assert [name for name, meaning in listed if not meaning.endswith(".")] == []


def test_the_help_shows_type_default_and_meaning() -> None:
    assert (
        "  training.learning_rate: float > 0 (default: 0.001)\n      Highest learning rate.\n"
    ) in HELP
    assert "name: string that is not empty (required)\n" in HELP
    assert "training: a mapping\n    How it is trained.\n" in HELP
    assert (
        "      model.attention=additive\n"
        "          v . tanh(W query + U key) (Bahdanau et al. 2015, appendix A.1.2).\n"
        "        model.attention.width: int > 0 or null (default: null)\n"
        "            Width of the alignment layer; null: that of the queries.\n"
    ) in HELP
    assert 'data.source_language: string (default: "")\n' in HELP
    assert "training.buckets: list of int > 0 that is not empty or null (default: null)\n" in HELP
    assert (
        "tokenizer: word | bpe | unigram | char | byte | byte_bpe | wordpiece | file "
        "(default: word)\n"
    ) in HELP
    assert "training.tensorboard: true or false (default: true)\n" in HELP


def test_a_meaning_comes_from_the_class_that_has_the_field() -> None:
    assert fields_of(Adadelta)["rho"].meaning == "Decay of the running averages."
    assert fields_of(Training)["seed"].meaning != fields_of(nested(Data)[0])["seed"].meaning


@pytest.mark.parametrize("union", [Data, Model, Tokenizer])
def test_kinds_differ(union: object) -> None:
    kinds = [kind_of(cls) for cls in nested(union)]
    assert len(kinds) == len(set(kinds)) > 1


def test_dotted_names_are_those_of_all_kinds() -> None:
    names = set(dotted_names(Experiment))
    assert {"model.layers", "model.maxout", "model.attention.window", "data.locale"} - names == {
        "data.locale"
    }


def test_named_sizes() -> None:
    paper = Bahdanau.paper()
    assert (paper.hidden, paper.embedding, paper.maxout, paper.dropout) == (1000, 620, 500, 0.0)
    assert (Luong.paper().hidden, Luong.paper().layers) == (1000, 4)
    assert Bahdanau.small().hidden < paper.hidden
    assert Luong.small(attention=paper.attention).attention == paper.attention


def test_the_help_needs_neither_jax_nor_pydantic(root: Path) -> None:
    program = (
        "import sys; from attnzoo.config.experiment import Experiment;"
        "from attnzoo.config.loader import help_text; print(len(help_text(Experiment)));"
        "print([name for name in ('jax', 'flax', 'pydantic', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert ran.stdout.split("\n")[:2] == [str(len(HELP)), "[]"], ran.stderr
