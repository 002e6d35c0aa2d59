"""Llama, Mistral, Qwen2 and Qwen3: tensor names and settings of their transformers models."""

from collections.abc import Mapping
from typing import Any

from attnzoo.config import rotary
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.llama import LlamaConfig
from attnzoo.errors import UserError
from attnzoo.models.llama import Llama
from attnzoo.pretrained.family import Family, Settings, Sizes, unsupported_message
from attnzoo.pretrained.table import Shape, Table, embedding, linear, norm

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
KINDS = {"default": None, "linear": "linear", "dynamic": "dynamic", "yarn": "yarn",
         "llama3": "llama3"}  # fmt: skip


def table(config: LlamaConfig, sizes: Sizes) -> Table:
    """Return the tensor table of a decoder with the biases and norms of this config."""
    layer, ours = "model.layers.{layer}", "decoder/blocks/{layer}"
    attention, feed = f"{ours}/attention/mechanism", f"{ours}/feed_forward"
    qkv, out, hidden = config.qkv_bias, config.out_bias, config.hidden_bias
    rows = [
        embedding("model.embed_tokens", "embedding"),
        *norm(f"{layer}.input_layernorm", f"{ours}/attention_norm", bias=False),
        *linear(f"{layer}.self_attn.q_proj", f"{attention}/query", bias=qkv),
        *linear(f"{layer}.self_attn.k_proj", f"{attention}/key", bias=qkv),
        *linear(f"{layer}.self_attn.v_proj", f"{attention}/value", bias=qkv),
        *linear(f"{layer}.self_attn.o_proj", f"{attention}/out", bias=out),
        *norm(f"{layer}.post_attention_layernorm", f"{ours}/feed_forward_norm", bias=False),
        *linear(f"{layer}.mlp.gate_proj", f"{feed}/gate", bias=hidden),
        *linear(f"{layer}.mlp.up_proj", f"{feed}/up", bias=hidden),
        *linear(f"{layer}.mlp.down_proj", f"{feed}/down", bias=hidden),
        *norm("model.norm", "norm", bias=False),
    ]
    if getattr(config.attention, "qk_norm", False):
        rows += norm(f"{layer}.self_attn.q_norm", f"{attention}/query_norm", bias=False)
        rows += norm(f"{layer}.self_attn.k_norm", f"{attention}/key_norm", bias=False)
    return Table(
        rows if config.tied else [*rows, embedding("lm_head", "output")],
        depths={"layer": config.layers},
        copies={"lm_head.weight": "model.embed_tokens.weight"} if config.tied else {},
        ignored=(r".*\.rotary_emb\.inv_freq",),
        # The models without a head have no prefix.
        renamed=((r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
    )


def read(hf: Settings) -> tuple[LlamaConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    kind = hf["model_type"]
    hf.refuse_unless(partial_rotary_factor=1.0, pretraining_tp=1)
    biased = hf.get("attention_bias", False) and kind in ("llama", "qwen3")
    heads = hf["num_attention_heads"]
    given = hf.get("rope_parameters", hf.get("rope_scaling", {}))
    config = LlamaConfig(
        attention=MultiHeadConfig(
            num_heads=heads,
            num_kv_heads=hf.get("num_key_value_heads", heads),
            head_dim=hf.get("head_dim", None),
            window=_window(hf),
            qk_norm=kind == "qwen3",
        ),
        dim=hf["hidden_size"],
        hidden=hf["intermediate_size"],
        layers=hf["num_hidden_layers"],
        max_length=hf["max_position_embeddings"],
        rotary_base=float(given.get("rope_theta") or hf.get("rope_theta", 10_000.0)),
        rotary_scaling=_scaling(hf, given),
        activation=hf.choose("hidden_act", ACTIVATIONS, "silu"),
        qkv_bias=biased or kind == "qwen2",
        out_bias=biased,
        hidden_bias=kind == "llama" and hf.get("mlp_bias", False),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        tied=hf.get("tie_word_embeddings", False),
        attention_dropout=hf.get("attention_dropout", 0.0),
    )
    return config, (hf["vocab_size"],)


def _window(hf: Settings) -> int | None:
    if hf["model_type"] == "llama":
        return None
    if hf["model_type"] != "mistral" and not hf.get("use_sliding_window", False):
        return None
    window = hf.get("sliding_window", None)
    kinds = set(hf.get("layer_types", ["sliding_attention"]))
    if window is None or kinds == {"full_attention"}:
        return None
    full_below = 0 if hf["model_type"] == "mistral" else hf.get("max_window_layers", 0)
    if len(kinds) > 1 or ("layer_types" not in hf.values and full_below > 0):
        raise UserError(
            f"{hf.file}: sliding_window={window} for some layers alone is not supported; wanted "
            "all layers alike"
        )
    return window


def _scaling(hf: Settings, given: Mapping[str, Any]) -> rotary.RotaryScaling | None:
    """Read rotary scaling from ``rope_parameters`` (``rope_scaling`` before transformers 5)."""
    name = given.get("rope_type") or given.get("type") or "default"
    kind = hf.value_in("rope_type", name, KINDS)
    if kind is None:
        return None
    for key in ("mscale", "mscale_all_dim", "attention_factor", "truncate"):
        if given.get(key) not in (None, True) and kind == "yarn":
            raise UserError(f"{hf.file}: {key}={given[key]} of the rotary scaling is not supported")
    factor = float(given["factor"])
    trained = given.get("original_max_position_embeddings") or hf["max_position_embeddings"]
    match kind:
        case "linear":
            return rotary.LinearScalingConfig(factor=factor)
        case "dynamic":
            # Dynamic scaling in transformers ignores original_max_position_embeddings.
            length = hf["max_position_embeddings"]
            return rotary.DynamicScalingConfig(factor=factor, original_length=length)
        case "yarn":
            fast, slow = (given.get(key) for key in ("beta_fast", "beta_slow"))
            return rotary.YaRNScalingConfig(
                factor=factor, original_length=trained, fast=fast or 32.0, slow=slow or 1.0
            )
        case _:
            return rotary.Llama3ScalingConfig(
                factor=factor,
                low=given["low_freq_factor"],
                high=given["high_freq_factor"],
                original_length=trained,
            )


def write(config: LlamaConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config, for the architecture that has its settings."""
    attention = config.attention
    if attention.kind != "multi_head" or attention.sinks:
        raise UserError(unsupported_message("Llama", attention))
    kind = _kind(config)
    written = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": sizes[0],
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads or attention.num_heads,
        "head_dim": attention.head_dim or config.dim // attention.num_heads,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "max_position_embeddings": config.max_length,
        "rope_parameters": {"rope_theta": config.rotary_base, **_written(config.rotary_scaling)},
        "hidden_act": {our: name for name, our in ACTIVATIONS.items()}[config.activation],
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "attention_dropout": config.attention_dropout,
    }
    if config.rotary_scaling is not None and config.rotary_scaling.kind == "dynamic":
        written["max_position_embeddings"] = config.rotary_scaling.original_length
    # transformers 4 reads this instead
    written["rope_theta"] = config.rotary_base
    written["rope_scaling"] = _written(config.rotary_scaling) if config.rotary_scaling else None
    if kind in ("llama", "qwen3"):
        written["attention_bias"] = config.qkv_bias
    if kind == "llama":
        written["mlp_bias"] = config.hidden_bias
    else:
        written["sliding_window"] = attention.window
    if kind in ("qwen2", "qwen3"):
        written["use_sliding_window"] = attention.window is not None
        written["max_window_layers"] = 0
    return written


def _kind(config: LlamaConfig) -> str:
    """Return the architecture that has these biases, norms and window.

    Raises:
      UserError: no architecture has them.
    """
    attention: Any = config.attention
    biases = config.qkv_bias, config.out_bias
    if attention.qk_norm:
        kind, fits = "qwen3", biases in ((False, False), (True, True))
    elif biases == (True, False):
        kind, fits = "qwen2", True
    elif attention.window is not None:
        kind, fits = "mistral", biases == (False, False)
    else:
        kind, fits = "llama", biases in ((False, False), (True, True))
    fits = fits and (kind == "llama" or not config.hidden_bias)
    turned = config.rotary_width in (None, attention.head_dim or config.dim // attention.num_heads)
    if not fits or not turned or config.dropout:
        raise UserError(
            f"transformers has no relative of Llama with qkv_bias={config.qkv_bias}, "
            f"out_bias={config.out_bias}, hidden_bias={config.hidden_bias}, "
            f"rotary_width={config.rotary_width}, dropout={config.dropout} and {attention}; our "
            "own folder takes it (convert --to own)"
        )
    return kind


def _written(scaling: rotary.RotaryScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    written = {"rope_type": scaling.kind, "factor": scaling.factor}
    match scaling.kind:
        case "linear" | "dynamic":
            return written
        case "yarn":
            return written | {
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.fast,
                "beta_slow": scaling.slow,
            }
        case "llama3":
            return written | {
                "original_max_position_embeddings": scaling.original_length,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
            }
        case "ntk":
            raise UserError("transformers has no rotary_scaling.kind=ntk; wanted another")


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["embedding/table"][0],)


LLAMA = Family(Llama, LlamaConfig, sizes, read, write, table)
