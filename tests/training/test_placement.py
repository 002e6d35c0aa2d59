"""Places by rules and by shape, and heads that a mesh does not divide; all models are in
test_parameters.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from attnzoo.attention import MultiHeadAttention
from attnzoo.attention.contract import Attention
from attnzoo.config.mesh import MeshConfig, RuleConfig
from attnzoo.errors import UserError
from attnzoo.training.placement import Placement


def abstract(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_names_without_a_rule_go_by_their_shape() -> None:
    novel = {
        "mixer": abstract(6, 10),
        "per_head": abstract(3, 6, 10),
        "vector": abstract(6),
        "probe": abstract(1, 6),
        "odd": abstract(7, 6),
        "bias": abstract(3, 6),
    }
    stacked = {name: abstract(2, *leaf.shape) for name, leaf in novel.items()}
    params = {"attention": novel, "decoder": {"blocks": {"cross_attention": stacked}}}
    placement = Placement(MeshConfig(data=1, fsdp=2), 2)
    found = placement.of_parameters(params)
    wanted = {
        "mixer": ("fsdp", None),
        "per_head": (None, "fsdp", None),
        "vector": (None,),
        "probe": (None, None),
        "odd": (None, None),
        "bias": (None, None),
    }
    for layers, group in (
        (0, found["attention"]),
        (1, found["decoder"]["blocks"]["cross_attention"]),
    ):
        for name, axes in wanted.items():
            spec = group[name].spec
            whole = (None,) * (layers + len(axes) - len(spec))
            assert (*whole, *spec) == (*[None] * layers, *axes), name
    # One row cannot be spread, which is no surprise; seven could have been eight.
    assert placement.notes[1] == (
        "2 parameters have a size that its axis does not divide, and are whole there: "
        "attention/odd, decoder/blocks/cross_attention/odd"
    )


def test_rules_of_a_config_come_first() -> None:
    rules = (RuleConfig(pattern="mixer", axes=(None, "fsdp")),)
    found = Placement(MeshConfig(fsdp=2, rules=rules), 2).of_parameters({"mixer": abstract(6, 10)})
    assert tuple(found["mixer"].spec) == (None, "fsdp")


class Grouped(Attention):
    """An attention of a user whose three groups of heads stay together."""

    @property
    def head_groups(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("attention", "groups"),
    [
        (lambda: MultiHeadAttention(12, 6, num_kv_heads=3, rngs=nnx.Rngs(0)), 3),
        (Grouped, 3),
        (Attention, None),
    ],
)
def test_groups_of_heads_stay_on_one_device(attention, groups: int | None) -> None:
    model = nnx.Dict(inner=nnx.eval_shape(attention))
    Placement(MeshConfig(tensor=3), 3).check(model, 4, 1)
    mesh = Placement(MeshConfig(tensor=2), 2)
    if groups is None:
        mesh.check(model, 4, 1)
        return
    message = "mesh.tensor=2 does not divide the 3 key/value heads of inner; wanted 1 or 3"
    with pytest.raises(UserError, match=message):
        mesh.check(model, 4, 1)
