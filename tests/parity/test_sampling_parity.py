"""The steps of sampling beside transformers' logits processors, in the order of its generate."""

import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.decoding.sampling import Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(7, 53))).astype(np.float32)
TOKENS = RNG.integers(0, 53, (7, 11))
SETTINGS = [
    Sampling(temperature=0.7),
    Sampling(temperature=1.0, top_k=5),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.0, top_p=0.05),
    Sampling(temperature=1.0, min_p=0.1),
    Sampling(temperature=1.0, repetition_penalty=1.7),
    Sampling(temperature=1.3, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=0.8),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_processors(sampling: Sampling) -> None:
    t = transformers
    steps = t.LogitsProcessorList()
    if sampling.repetition_penalty is not None:
        steps.append(t.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(t.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        steps.append(t.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        steps.append(t.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        steps.append(t.MinPLogitsWarper(sampling.min_p))
    wanted = steps(torch.tensor(TOKENS), torch.tensor(LOGITS)).numpy()
    seen = np.zeros(LOGITS.shape, bool)
    np.put_along_axis(seen, TOKENS, True, axis=1)
    ours = np.asarray(sampling.process(jnp.asarray(LOGITS), jnp.asarray(seen)))
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(wanted))
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(ours[finite], wanted[finite], rtol=1e-6)
