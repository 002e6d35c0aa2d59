"""What the parity tests of decoders share: a model of transformers with random weights as ours."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo import pretrained
from attnzoo.decoding.generate import generate


def both(theirs: Any, folder: Path) -> tuple[Any, Any]:
    """Their model with random weights, norms and biases too, and ours read from its files."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # Norms away from 1 and biases away from 0, which would hide a missing one.
            scale = 0.3 if parameter.ndim > 1 else 0.2
            parameter.normal_(1.0 if "norm" in name or ".ln_" in name else 0.0, scale)
    theirs.eval().save_pretrained(folder)
    return theirs, pretrained.load(folder)


def hidden_states(model: Any, ids: np.ndarray, valid: np.ndarray | None = None) -> Any:
    """Logits, and the states before each block and after the last norm."""
    graph, params = nnx.split(model)

    @jax.jit
    def run(params: Any, ids: Any) -> Any:
        model = nnx.merge(graph, params)
        places = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
        x = model._embed(ids, places, None)
        states = [x]
        for block in model.decoder.blocks:
            x, _ = block(x, valid=None if valid is None else jnp.asarray(valid))
            states.append(x)
        return model(ids, valid=valid), [*states[:-1], model.norm(x)]

    return run(params, jnp.asarray(ids, jnp.int32))


def compare_states(theirs: Any, ours: Any, ids: np.ndarray) -> None:
    """Logits and every layer's states to 1e-5 of their largest."""
    import torch

    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids), output_hidden_states=True)
    logits, states = hidden_states(ours, ids)
    assert len(states) == len(wanted.hidden_states)
    for layer, (found, state) in enumerate(zip(states, wanted.hidden_states, strict=True)):
        _close(found, state.numpy(), f"layer {layer}")
    _close(logits, wanted.logits.numpy(), "logits")


def _close(found: Any, wanted: np.ndarray, what: str) -> None:
    # Residual sums reach 20: what is near 0 in them has the rounding of what was added up.
    largest = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * largest, err_msg=what)


def compare_generation(theirs: Any, ours: Any, ids: np.ndarray, lengths: list[int]) -> None:
    """64 greedy tokens of prompts with these lengths, padded on the left: the same, all of them."""
    import torch

    valid = np.arange(ids.shape[1])[None] >= ids.shape[1] - np.asarray(lengths)[:, None]
    with torch.no_grad():
        wanted = theirs.generate(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(valid.astype(np.int64)),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    found = generate(ours, ids, valid=valid, max_new_tokens=64)
    np.testing.assert_array_equal(found.tokens[:, 0], wanted.numpy()[:, ids.shape[1] :])
    # What does not depend on the prompt would agree by chance.
    assert len({tuple(row) for row in found.tokens[:, 0].tolist()}) > 1
