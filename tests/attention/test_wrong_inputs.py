"""A call with arrays that do not fit raises a ValueError that names the argument."""

from typing import Any

import jax.numpy as jnp
import pytest
from cases import CASES, build

FIRST = {name.split()[0]: name for name in reversed(CASES)}
ARRAYS = ("query", "keys", "values")


def arrays(name: str) -> dict[str, Any]:
    return {
        array: jnp.zeros(shape)
        for array, shape in zip(ARRAYS, CASES[name].sizes.shapes(), strict=True)
    }


@pytest.mark.parametrize("name", FIRST.values(), ids=str)
def test_a_wrong_width_names_the_argument(name: str) -> None:
    attention, given = build(name), arrays(name)
    attention.check_inputs(**given)
    for array, width in zip(ARRAYS, attention.widths, strict=True):
        if width is None:
            continue
        wider = jnp.zeros((*given[array].shape[:2], given[array].shape[2] + 1))
        with pytest.raises(ValueError, match=rf"{array} has shape .*; wanted width {width}"):
            attention(**given | {array: wider})


@pytest.mark.parametrize("name", FIRST.values(), ids=str)
def test_a_wrong_rank_batch_or_dtype_names_the_argument(name: str) -> None:
    attention, given = build(name), arrays(name)
    for array in ARRAYS:
        x = given[array]
        for wrong, problem in (
            (x[0], "three axes"),
            (x[None], "three axes"),
            (x[..., None], "three axes"),
            (x.astype(jnp.int32), "floating point"),
            (jnp.concatenate([x, x]), "batch size"),
        ):
            named = "keys" if problem == "batch size" and array == "query" else array
            with pytest.raises(ValueError, match=rf"{named} has .*; wanted .*{problem}"):
                attention.check_inputs(**given | {array: wrong})
