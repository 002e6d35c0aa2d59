"""`pretrained_fixtures.py`: write tiny models of transformers with the logits that it computes.

The tests compare attnzoo with them where neither torch nor transformers is installed. Every model
has unusual settings and random weights, norms and biases; its batch has rows without padding, with
padding on the left and on the right, and with position ids that skip. This needs torch and
transformers and writes tests/pretrained/fixtures/NAME: config.json, model.safetensors, and
expected.npz with the inputs, the logits and the version.
"""

from pathlib import Path
from typing import Any

import numpy as np

HOME = Path(__file__).parents[1] / "tests" / "pretrained" / "fixtures"
VOCAB, ROWS, LENGTH = 23, 6, 7
DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-3,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 19,
    "layer_norm_eps": 1e-3,
    "type_vocab_size": 3,
}
TRANSLATOR = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 17,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 19,
    "scale_embedding": True,
    "pad_token_id": 5,
    "decoder_start_token_id": 3,
    "eos_token_id": 4,
    "forced_eos_token_id": 4,
}
FIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-yarn": (
        "LlamaForCausalLM",
        DECODER
        | {
            "rope_parameters": YARN | {"rope_theta": 50.0, "mscale": 0.7, "mscale_all_dim": 1.5},
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "mistral-window": (
        "MistralForCausalLM",
        DECODER
        | {"sliding_window": 3, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    ),
    "qwen3-layer-types": (
        "Qwen3ForCausalLM",
        DECODER
        | {
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 2,
            "layer_types": ["sliding_attention"] * 2,
            "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 70.0},
        },
    ),
    "bert-pretraining": ("BertForPreTraining", ENCODER | {"hidden_act": "gelu_new"}),
    "bert-sequence": (
        "BertForSequenceClassification",
        ENCODER | {"hidden_act": "relu", "num_labels": 5},
    ),
    "gpt2-untied": (
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCAB,
            "n_embd": 12,
            "n_inner": 17,
            "n_layer": 2,
            "n_head": 3,
            "n_positions": 19,
            "activation_function": "relu",
            "layer_norm_epsilon": 1e-3,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "t5-dense-act-fn": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 12,
            "d_kv": 5,
            "d_ff": 17,
            "num_layers": 1,
            "num_decoder_layers": 2,
            "num_heads": 3,
            "relative_attention_num_buckets": 6,
            "relative_attention_max_distance": 9,
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "silu",
            "tie_word_embeddings": False,
            "pad_token_id": 5,
            "decoder_start_token_id": 3,
        },
    ),
    "bart-scaled": ("BartForConditionalGeneration", TRANSLATOR | {"activation_function": "relu"}),
    "marian-two-vocabularies": (
        "MarianMTModel",
        TRANSLATOR
        | {
            "activation_function": "swish",
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": VOCAB - 4,
        },
    ),
}


NAMES = {
    "tokens": "input_ids",
    "valid": "attention_mask",
    "positions": "position_ids",
    "segments": "token_type_ids",
    "source": "input_ids",
    "target": "decoder_input_ids",
}


def inputs(architecture: str) -> dict[str, np.ndarray]:
    """Return tokens, valid and positions ``B T`` of a batch, or its source and target.

    An encoder has segments too; a source is padded on the right, with token 5.
    """
    random = np.random.default_rng(0)
    valid = np.ones((ROWS, LENGTH), bool)
    valid[3, 2:] = valid[4, 6:] = False
    tokens = random.integers(6, VOCAB - 4, valid.shape).astype(np.int32)
    if not architecture.endswith("CausalLM") and not architecture.startswith(("Bert", "GPT2")):
        target = random.integers(0, VOCAB - 4, (ROWS, LENGTH - 2)).astype(np.int32)
        return {"source": np.where(valid, tokens, np.int32(5)), "target": target}
    valid[1, :3] = valid[2, :5] = False
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    positions[5] = [1, 2, 5, 6, 11, 12, 18]
    found = {"tokens": tokens, "valid": valid, "positions": positions.astype(np.int32)}
    segments = random.integers(0, 3, valid.shape).astype(np.int32)
    return found | {"segments": segments} if architecture.startswith("Bert") else found


def expected(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a model of transformers, and its inputs with the logits ``B T V`` or ``B C``."""
    import torch
    import transformers

    architecture, settings = FIXTURES[name]
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**settings, attn_implementation="eager")).eval()
    if architecture.startswith("T5"):  # version 1.1 has an output layer of its own
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight.clone())
    random = np.random.default_rng(1)
    with torch.no_grad():
        drawn = {k: p for k, p in model.named_parameters() if "embed_positions" not in k}
        drawn |= {k: p for k, p in model.named_buffers() if k == "final_logits_bias"}
        if architecture.startswith("Bart"):
            drawn |= {k: p for k, p in model.named_parameters() if "embed_positions" in k}
        for path, parameter in drawn.items():
            is_norm = parameter.ndim == 1 and ("norm" in path.lower() or ".ln_" in path)
            centre = 1.0 if is_norm and path.endswith("weight") else 0.0
            values = random.normal(centre, 0.4, tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(values))
        given = inputs(architecture)
        said = {NAMES[name]: torch.from_numpy(array).long() for name, array in given.items()}
        if "source" in given:
            said["attention_mask"] = (said["input_ids"] != 5).long()
        out = model(**said)
    logits = out.prediction_logits if "prediction_logits" in out else out.logits
    version = np.array(transformers.__version__)
    return model, given | {"logits": logits.numpy(), "version": version}


def main() -> int:
    """Write all fixtures."""
    for name in FIXTURES:
        model, arrays = expected(name)
        model.save_pretrained(HOME / name)
        (HOME / name / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(HOME / name / "expected.npz", allow_pickle=False, **arrays)
        print(f"{HOME / name}: {sum(f.stat().st_size for f in (HOME / name).iterdir()):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
