"""GPT-2 beside ``transformers.GPT2LMHeadModel``: states, greedy text, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo import pretrained
from tests.parity.decoders import both, compare_generation, compare_states

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

V = 53
SIZES = {"vocab_size": V, "n_embd": 20, "n_layer": 3, "n_head": 4, "n_positions": 83}
IDS = np.random.default_rng(0).integers(0, V, (3, 11))


def make(folder: Path, **settings: Any) -> tuple[Any, Any]:
    config = transformers.GPT2Config(**SIZES | settings)
    return both(transformers.GPT2LMHeadModel(config), folder)


@pytest.mark.parametrize(
    "settings",
    [{}, {"tie_word_embeddings": False, "n_inner": 31, "activation_function": "relu"}],
)
def test_states_of_every_layer(settings: dict[str, Any], tmp_path: Path) -> None:
    compare_states(*make(tmp_path, **settings), IDS)


def test_greedy_generation(tmp_path: Path) -> None:
    models = make(tmp_path, tie_word_embeddings=False)
    compare_generation(*models, IDS, [11, 11, 11])
    compare_generation(*models, IDS, [11, 3, 7])


def test_the_files_come_back_byte_by_byte(tmp_path: Path) -> None:
    theirs, ours = make(tmp_path / "theirs", tie_word_embeddings=False)
    pretrained.save(ours, tmp_path / "ours")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    wanted = theirs.state_dict()
    assert sorted(again.state_dict()) == sorted(wanted)
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), wanted[name].numpy(), err_msg=name)
