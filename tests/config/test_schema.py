"""Classes of configs say what they need to: meanings, kinds, dotted names, sizes."""

import dataclasses
from typing import get_args

import pytest

from attnzoo.config.data import Data, Tokenizer
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.model import BahdanauConfig, LuongConfig, Model
from attnzoo.config.schema import dotted_names, fields_of, kind_of
from attnzoo.config.training import AdadeltaConfig, TrainingConfig


def nested(annotation: object) -> list[type]:
    """The dataclasses in an annotation, found without the code under test."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [cls for part in get_args(annotation) for cls in nested(part)]


def test_a_meaning_comes_from_the_class_that_has_the_field() -> None:
    assert fields_of(AdadeltaConfig)["rho"].meaning == "Decay of the running averages."
    assert fields_of(TrainingConfig)["seed"].meaning != fields_of(nested(Data)[0])["seed"].meaning


@pytest.mark.parametrize("union", [Data, Model, Tokenizer])
def test_kinds_differ(union: object) -> None:
    kinds = [kind_of(cls) for cls in nested(union)]
    assert len(kinds) == len(set(kinds)) > 1


def test_dotted_names_are_those_of_all_kinds() -> None:
    names = set(dotted_names(ExperimentConfig))
    assert {"model.layers", "model.maxout", "model.attention.window", "data.locale"} - names == {
        "data.locale"
    }


def test_named_sizes() -> None:
    paper = BahdanauConfig.paper()
    assert (paper.hidden, paper.embedding, paper.maxout, paper.dropout) == (1000, 620, 500, 0.0)
    assert (LuongConfig.paper().hidden, LuongConfig.paper().layers) == (1000, 4)
    assert BahdanauConfig.small().hidden < paper.hidden
    assert LuongConfig.small(attention=paper.attention).attention == paper.attention
