"""A trained ALBERT reads a reaction as it does in transformers: that of the package rxnmapper."""

import importlib.util
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from attnzoo import pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
found = importlib.util.find_spec("rxnmapper")
if found is None or found.origin is None:
    pytest.skip("rxnmapper is not installed", allow_module_level=True)
FOLDER = Path(found.origin).parent / "models/transformers/albert_heads_8_uspto_all_1310k"
REACTION = "CC(=O)O.OCC>>CC(=O)OCC.O"
"""Acetic acid and ethanol become ethyl acetate and water."""
LAYER, HEAD = 10, 5
"""The head that maps atoms (Schwaller et al. 2021, Science Advances 7 (15), eabe4166)."""


def test_a_trained_albert_with_shared_layers(tmp_path: Path) -> None:
    weights = torch.load(FOLDER / "pytorch_model.bin", weights_only=True, map_location="cpu")
    arrays = {name: one.numpy() for name, one in weights.items()}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(FOLDER / "config.json", tmp_path)
    vocabulary = (FOLDER / "vocab.txt").read_text().split("\n")
    atoms = re.findall(r">>|[A-Z][a-z]?|.", REACTION)
    ids = np.array([[vocabulary.index(one) for one in ("[CLS]", *atoms, "[SEP]")]], np.int32)
    theirs = transformers.AlbertForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        wanted = theirs.eval()(torch.from_numpy(ids).long(), output_attentions=True)
    logits, maps = pretrained.load(tmp_path)(jnp.asarray(ids), capture=True)
    largest = wanted.logits.abs().max().item()
    np.testing.assert_allclose(logits, wanted.logits.numpy(), rtol=0, atol=1e-5 * largest)
    for layer, weights in enumerate(wanted.attentions):
        np.testing.assert_allclose(maps[f"encoder/{layer}/self"], weights.numpy(), atol=1e-5)
    # Carbons of the product read those of the reactants; rxnmapper corrects the last by neighbours.
    arrow, place = atoms.index(">>"), [i for i, one in enumerate(atoms) if one == "C"]
    before = [i + 1 for i in place if i < arrow]
    after = [i + 1 for i in place if i > arrow]
    read = np.asarray(maps[f"encoder/{LAYER}/self"])[0, HEAD]
    assert read[np.ix_(after, before)].argmax(axis=1).tolist()[:3] == [0, 1, 2]
