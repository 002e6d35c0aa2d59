"""Part of the weights on request, from every mechanism: the part is that of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, build
from flax import nnx
from tolerances import assert_close

from attnzoo.attention import ATTENTIONS, ISAB, PMA, SENTENCE_ATTENTIONS, LatentReader
from attnzoo.ops import WeightRequest
from attnzoo.testing import ModuleSizes

B, T, D = 2, 5, 8
REQUEST = WeightRequest(rows=(3, 0), heads=(0,), statistics=("entropy", "column_mass"))
TOP = WeightRequest(top_k=2)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_takes_a_request(name: str) -> None:
    case = next(key for key in CASES if key.split()[0] == name)
    module, sizes = build(case), CASES[case].sizes
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [jax.random.normal(key, shape) for key, shape in zip(keys, sizes.shapes())]
    mask = jnp.ones((sizes.B, 1, 1, sizes.S), bool).at[1, ..., -1].set(False)

    @jax.jit
    def run(*inputs):
        return [module(*inputs, mask=mask, return_weights=asked) for asked in (True, REQUEST, TOP)]

    (context, weights), (same, report), (also, top) = run(*inputs)
    np.testing.assert_allclose(same, context, rtol=0, atol=2e-6)
    np.testing.assert_allclose(also, context, rtol=0, atol=2e-6)
    weights = np.asarray(weights, np.float64)
    np.testing.assert_allclose(report.weights, weights[:, :1, [3, 0]], atol=2e-6)
    assert_close(report.column_mass, weights[:, :1].sum(2), 1e-5)
    if np.all(weights >= 0):
        some = np.where(weights > 0, weights, 1.0)
        entropy = -np.sum(weights * np.log(some), axis=-1)
        np.testing.assert_allclose(report.entropy, entropy[:, :1], atol=1e-5)
    ordered = -np.sort(-weights, axis=-1)[..., :2]
    np.testing.assert_allclose(top.top_weights, ordered, atol=2e-6)
    found = np.take_along_axis(weights, np.asarray(top.top_keys), axis=-1)
    np.testing.assert_allclose(found, ordered, atol=2e-6)
    assert report.top_keys is None
    assert top.weights is None


def test_so_do_sentence_attentions_and_sets() -> None:
    x = jax.random.normal(jax.random.key(0), (B, T, D))
    asked = WeightRequest(statistics=("column_mass",))
    modules = {
        "lstmn": SENTENCE_ATTENTIONS["lstmn"](D, 3, rngs=nnx.Rngs(0)),
        "structured": SENTENCE_ATTENTIONS["structured"](D, 4, 3, rngs=nnx.Rngs(0)),
        "pma": PMA(D, 2, 3, rngs=nnx.Rngs(0)),
        "reader": LatentReader(D, 2, 3, input_dim=D, rngs=nnx.Rngs(0)),
    }
    for name, module in modules.items():
        out, weights = module(x, return_weights=True)
        same, report = module(x, return_weights=asked)
        np.testing.assert_allclose(same, out, atol=2e-6, err_msg=name)
        assert_close(report.column_mass, weights.sum(2), 1e-5, err_msg=name)
    isab = ISAB(D, 2, 3, rngs=nnx.Rngs(0))
    out, (into, back) = isab(x, return_weights=True)
    same, reports = isab(x, return_weights=asked)
    np.testing.assert_allclose(same, out, atol=2e-6)
    for report, weights in zip(reports, (into, back), strict=True):
        assert_close(report.column_mass, weights.sum(2), 1e-5)
    classes = {"input_dim": D, "width": 4, "num_classes": 3, "rngs": nnx.Rngs(0)}
    pair = SENTENCE_ATTENTIONS["decomposable"](**classes)
    _, maps = pair(x, x[:, :4], return_weights=True)
    _, reports = pair(x, x[:, :4], return_weights=asked)
    for name, weights in maps.items():
        assert_close(reports[name].column_mass, weights.sum(2), 1e-5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (WeightRequest(rows=(5,)), "rows asks for 5, but there are 5"),
        (WeightRequest(heads=(1,)), "heads asks for 1, but there are 1"),
        (WeightRequest(top_k=6), "top_k=6 is more than the 5 keys"),
    ],
)
def test_what_is_not_there_is_named(request_: WeightRequest, message: str) -> None:
    query, keys, values = (jnp.ones(shape) for shape in ModuleSizes(S=5, D2=13).shapes())
    with pytest.raises(ValueError, match=message):
        build("additive")(query, keys, values, return_weights=request_)
