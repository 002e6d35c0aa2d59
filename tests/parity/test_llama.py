"""Llama and its relatives beside transformers: states, greedy text, files, every variant."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo import pretrained
from tests.parity.decoders import both, compare_generation, compare_states

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

V = 53
SIZES = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 31,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 97,
}
THETA = {"rope_theta": 500.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24} | THETA
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped": ("Llama", {}),
    "multi_query_tied": ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0} | THETA}),
    "dynamic": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0} | THETA,
            "max_position_embeddings": 7,
        },
    ),
    "yarn": ("Llama", {"rope_parameters": YARN}),
    "yarn_factor": ("Llama", {"rope_parameters": YARN | {"attention_factor": 1.0}}),
    "yarn_mscale": ("Llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.5}}),
    "yarn_original_above": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0} | THETA,
            "original_max_position_embeddings": 24,
        },
    ),
    "llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 24,
            }
            | THETA
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 5, "head_dim": 8}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
    ),
    "qwen2_window_of_no_layer": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 3},
    ),
    "qwen3": ("Qwen3", {"head_dim": 10}),
    "qwen3_biases": ("Qwen3", {"head_dim": 10, "attention_bias": True}),
}
IDS = np.random.default_rng(0).integers(0, V, (3, 13))


def make(variant: str, folder: Path) -> tuple[Any, Any]:
    name, settings = VARIANTS[variant]
    config = getattr(transformers, f"{name}Config")(**SIZES | settings)
    return both(getattr(transformers, f"{name}ForCausalLM")(config), folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_of_every_layer(variant: str, tmp_path: Path) -> None:
    theirs, ours = make(variant, tmp_path)
    compare_states(theirs, ours, IDS)


@pytest.mark.parametrize("variant", ["grouped", "yarn", "mistral", "qwen2", "qwen3"])
def test_greedy_generation(variant: str, tmp_path: Path) -> None:
    models = make(variant, tmp_path)
    compare_generation(*models, IDS, [13, 13, 13])
    compare_generation(*models, IDS, [13, 2, 7])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_files_come_back_byte_by_byte(variant: str, tmp_path: Path) -> None:
    theirs, ours = make(variant, tmp_path / "theirs")
    pretrained.save(ours, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    wanted = theirs.state_dict()
    assert type(again) is type(theirs)
    assert sorted(again.state_dict()) == sorted(wanted)
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), wanted[name].numpy(), err_msg=name)
    for key in ("rope_parameters", "sliding_window", "head_dim", "attention_bias", "layer_types"):
        mine, other = (getattr(one.config, key, None) for one in (again, theirs))
        unused = key == "sliding_window" and variant == "qwen2_window_of_no_layer"
        assert mine == other or unused or key in ("head_dim", "rope_parameters"), key


def test_a_saved_model_stops_as_before(tmp_path: Path) -> None:
    import torch

    theirs, _ = make("grouped", tmp_path / "theirs")
    ids = torch.from_numpy(IDS[:1])
    plain = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 20}
    said = theirs.generate(ids, **plain, eos_token_id=None)[0, ids.shape[1] :].tolist()
    end = next(token for token in said if token != said[0])
    theirs.config.eos_token_id = theirs.generation_config.eos_token_id = end
    theirs.save_pretrained(tmp_path / "theirs")
    pretrained.save(pretrained.load(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    wanted = theirs.generate(ids, **plain).tolist()
    assert again.generate(ids, **plain).tolist() == wanted
    assert len(wanted[0]) < ids.shape[1] + 20
