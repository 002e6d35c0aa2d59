"""Every parameter of every model has a place: the table of rules leaves none to chance."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import pytest
from flax import nnx

from attnzoo.config import attention, gates
from attnzoo.config.bert import Bert
from attnzoo.config.gpt2 import GPT2
from attnzoo.config.llama import Llama
from attnzoo.config.mesh import Mesh
from attnzoo.config.model import Bahdanau, Luong, ResNet
from attnzoo.config.t5 import T5
from attnzoo.config.transformer import Transformer
from attnzoo.config.vit import ViT
from attnzoo.models import CLASSIFIERS, DECODERS, ENCODERS, TRANSLATORS
from attnzoo.training.placement import Placement


def kinds(union: Any) -> list[type]:
    return list(get_args(get_args(union)[0]))


def small(kind: type) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(num_heads=2) if "num_heads" in names else kind()


def translator(config: Any) -> nnx.Module:
    return TRANSLATORS[config.kind](config, 20, 20, rngs=nnx.Rngs(0))


def decoder(config: Any) -> nnx.Module:
    return DECODERS[config.kind](config, 20, rngs=nnx.Rngs(0))


def classifier(config: Any) -> nnx.Module:
    return CLASSIFIERS[config.kind](config, 10, rngs=nnx.Rngs(0))


MODELS: dict[str, Callable[[], nnx.Module]] = {
    "transformer": lambda: translator(Transformer()),
    "t5": lambda: translator(T5()),
    "luong": lambda: translator(Luong()),
    "llama": lambda: decoder(Llama()),
    "bert": lambda: ENCODERS["bert"](Bert(), 20, rngs=nnx.Rngs(0)),
    "vit": lambda: classifier(ViT(layer_scale=0.1)),
    **{
        f"gpt2 {kind.kind}": lambda kind=kind: decoder(
            GPT2(attention=small(kind), dim=16, layers=1, max_length=16)
        )
        for kind in kinds(attention.SelfAttention)
    },
    **{
        f"bahdanau {kind.kind}": lambda kind=kind: translator(
            Bahdanau(attention=kind(), hidden=8, embedding=8)
        )
        for kind in kinds(attention.Attention)
        if kind.kind not in ("dot", "scaled_dot")  # which want equal widths
    },
    **{
        f"resnet {kind.kind}": lambda kind=kind: classifier(
            ResNet(attention=kind(), depth=8, width=16)
        )
        for kind in kinds(gates.Gate)
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_rule(name: str) -> None:
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(MODELS[name]), nnx.Param))
    placement = Placement(Mesh(data=2), 2)
    placement.of_parameters(params)
    assert placement.notes == ["2 devices: data 2"]
