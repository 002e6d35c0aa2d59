"""Llama, Mistral, Qwen2 and Qwen3: tensor names and settings of their transformers models."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from attnzoo.config import rotary
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.llama import LlamaConfig
from attnzoo.errors import UserError
from attnzoo.models.llama import Llama
from attnzoo.pretrained.family import Family, Sizes, unsupported_message
from attnzoo.pretrained.fields import (
    REQUIRED,
    Fields,
    Settings,
    amount,
    architecture,
    count,
    depth,
    flag,
    mapping,
    positive,
    rate,
    size,
    word,
    words,
)
from attnzoo.pretrained.table import Shape, Table, embedding, linear, norm

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_ROTARY = {
    "rope_type": word(None),
    "type": word(None),
    "rope_theta": positive(None),
}
_FACTOR = {"factor": positive(REQUIRED)}
_ORIGINAL = {"original_max_position_embeddings": size(None)}
_WHOLE_HEAD = {"partial_rotary_factor": (1.0,)}
ROTARY_FIELDS = {
    "default": Fields(_ROTARY, refused=_WHOLE_HEAD),
    "linear": Fields(_ROTARY | _FACTOR, refused=_WHOLE_HEAD),
    "dynamic": Fields(
        _ROTARY | _FACTOR,
        {"original_max_position_embeddings": "transformers reads max_position_embeddings instead"},
        _WHOLE_HEAD,
    ),
    "yarn": Fields(
        _ROTARY
        | _ORIGINAL
        | {
            "factor": positive(REQUIRED, null=True),
            "attention_factor": positive(None),
            "mscale": amount(None),
            "mscale_all_dim": amount(None),
            "beta_fast": amount(None),
            "beta_slow": amount(None),
        },
        refused=_WHOLE_HEAD | {"truncate": (True,)},
    ),
    "llama3": Fields(
        _ROTARY
        | _FACTOR
        | _ORIGINAL
        | {"low_freq_factor": positive(REQUIRED), "high_freq_factor": positive(REQUIRED)},
        refused=_WHOLE_HEAD,
    ),
}
"""Fields of ``rope_parameters`` by their ``rope_type``."""


def fields(kind: str) -> Fields:
    """Return the fields of the config.json of one architecture."""
    vocab, hidden, length, kv_heads = {
        "llama": (32000, 11008, 2048, None),
        "mistral": (32000, 14336, 131072, 8),
    }.get(kind, (151936, 22016, 32768, 32))
    followed = {
        "architectures": architecture(None),
        "vocab_size": size(vocab),
        "hidden_size": size(4096),
        "intermediate_size": size(hidden),
        "num_hidden_layers": depth(32),
        "num_attention_heads": size(32),
        "num_key_value_heads": size(kv_heads, null=True),
        "head_dim": size(128 if kind == "qwen3" else None),
        "hidden_act": word("silu"),
        "max_position_embeddings": size(length),
        "rms_norm_eps": positive(1e-6),
        "tie_word_embeddings": flag(False),
        "attention_dropout": rate(0.0),
        "rope_parameters": mapping(None),
        "rope_scaling": mapping(None),
        "rope_theta": positive(10_000.0),
        **_ORIGINAL,
    }
    if kind in ("llama", "qwen3"):
        followed["attention_bias"] = flag(False)
    if kind == "llama":
        followed["mlp_bias"] = flag(False)
    if kind == "mistral":
        followed["sliding_window"] = size(4096, null=True)
    if kind in ("qwen2", "qwen3"):
        followed |= {
            "use_sliding_window": flag(False),
            "sliding_window": size(4096, null=True),
            "max_window_layers": count(28),
            "layer_types": words(None),
        }
    return Fields.of_model(
        followed,
        without_effect={
            "order of a sum, which transformers 5 does not read": "pretraining_tp",
            "records of the programs of some models": "is_llama_config _flash_attn_2_enabled",
        },
        refused={
            **_WHOLE_HEAD,
            "is_causal": (True,),
            "is_encoder_decoder": (False,),
            "rope_interleaved": (False,),
            "use_mrope": (False,),
        },
    )


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


def read(kind: str, hf: Settings) -> tuple[LlamaConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    hf.architecture((ARCHITECTURES[kind], ARCHITECTURES[kind].replace("ForCausalLM", "Model")))
    given = hf.fields.followed
    biased = "attention_bias" in given and hf["attention_bias"]
    heads = hf["num_attention_heads"]
    width = hf["head_dim"]
    if width is None:
        hf.divide("hidden_size", "num_attention_heads")
    if hf["num_key_value_heads"] is not None:
        hf.divide("num_attention_heads", "num_key_value_heads")
    if (width or hf["hidden_size"] // heads) % 2:
        key = "head_dim" if width else "hidden_size"
        raise hf.error(key, "an even number of channels per head")
    rotary_base, rotary_scaling = _rotary(hf)
    config = LlamaConfig(
        attention=MultiHeadConfig(
            num_heads=heads,
            num_kv_heads=hf["num_key_value_heads"] or heads,
            head_dim=width,
            window=_window(kind, hf),
            qk_norm=kind == "qwen3",
        ),
        dim=hf["hidden_size"],
        hidden=hf["intermediate_size"],
        layers=hf["num_hidden_layers"],
        max_length=hf["max_position_embeddings"],
        rotary_base=rotary_base,
        rotary_scaling=rotary_scaling,
        activation=hf.choose("hidden_act", ACTIVATIONS),
        qkv_bias=biased or kind == "qwen2",
        out_bias=biased,
        hidden_bias="mlp_bias" in given and hf["mlp_bias"],
        norm_eps=hf["rms_norm_eps"],
        tied=hf["tie_word_embeddings"],
        attention_dropout=hf["attention_dropout"],
    )
    return config, (hf["vocab_size"],)


def _window(kind: str, hf: Settings) -> int | None:
    if kind in ("llama", "mistral"):
        return hf["sliding_window"] if kind == "mistral" else None
    window = hf["sliding_window"] if hf["use_sliding_window"] else None
    layers, full = hf["num_hidden_layers"], hf["max_window_layers"]
    types = hf["layer_types"]
    if types is None:
        number = 0 if window is None else max(layers - full, 0)
        if 0 < number < layers:
            raise hf.error("max_window_layers", f"0 or {layers} with use_sliding_window")
    else:
        number = types.count("sliding_attention")
        if len(types) != layers or number + types.count("full_attention") != layers:
            raise hf.error("layer_types", f"sliding_attention or full_attention {layers} times")
        if 0 < number < layers:
            raise hf.error("layer_types", "all layers alike")
        if number and window is None:
            raise hf.error("layer_types", "full_attention without a sliding_window in use")
    return window if number else None


def _rotary(hf: Settings) -> tuple[float, rotary.RotaryScaling | None]:
    """Return the base and the scaling of the rotary positions.

    As in transformers, ``rope_scaling`` (its name before version 5) goes before
    ``rope_parameters``, and at the top level ``original_max_position_embeddings`` before the same
    field in these objects, but ``rope_theta`` after it.
    """
    key = "rope_scaling" if hf["rope_scaling"] else "rope_parameters"
    given = hf[key] or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROTARY_FIELDS:
        wanted = " or ".join(ROTARY_FIELDS)
        raise hf.error(key, f"a rope_type among {wanted}")
    rope = hf.within(key, ROTARY_FIELDS[kind])
    base = rope["rope_theta"] or hf["rope_theta"]
    length = hf["max_position_embeddings"]
    if kind == "default":
        return base, None
    factor = rope["factor"]
    if kind == "linear":
        return base, rotary.LinearScalingConfig(factor=factor)
    if kind == "dynamic":
        return base, rotary.DynamicScalingConfig(factor=factor, original_length=length)
    original = hf["original_max_position_embeddings"] or (
        rope["original_max_position_embeddings"] or length
    )
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if low == high:
            raise rope.error("high_freq_factor", "more than low_freq_factor")
        return base, rotary.Llama3ScalingConfig(
            factor=factor, low=low, high=high, original_length=original
        )
    factor = length / original if factor is None else factor
    return base, rotary.YaRNScalingConfig(
        factor=factor,
        original_length=original,
        fast=rope["beta_fast"] or 32.0,
        slow=rope["beta_slow"] or 1.0,
        amplitude=_amplitude(rope, factor),
    )


def _amplitude(rope: Settings, factor: float) -> float | None:
    """Return YaRN's factor on cos and sin, None for that of the paper."""
    above, below = rope["mscale"], rope["mscale_all_dim"]
    if rope["attention_factor"] is not None or not (above and below):
        return rope["attention_factor"]
    growth = 0.1 * math.log(max(factor, 1.0))
    return (above * growth + 1) / (below * growth + 1)


def write(kind: str, config: LlamaConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    attention: Any = config.attention
    if attention.kind != "multi_head" or attention.sinks:
        raise UserError(unsupported_message("Llama", attention))
    _check(kind, config)
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


def _check(kind: str, config: LlamaConfig) -> None:
    """Raise a UserError unless the architecture has these biases, norms and window."""
    attention: Any = config.attention
    biases, alike = (config.qkv_bias, config.out_bias), ((False, False), (True, True))
    fits = {
        "llama": not attention.qk_norm and attention.window is None and biases in alike,
        "mistral": not attention.qk_norm and biases == (False, False),
        "qwen2": not attention.qk_norm and biases == (True, False),
        "qwen3": attention.qk_norm and biases in alike,
    }[kind] and (kind == "llama" or not config.hidden_bias)
    turned = config.rotary_width in (None, attention.head_dim or config.dim // attention.num_heads)
    if not fits or not turned or config.dropout:
        raise UserError(
            f"transformers has no relative of Llama with qkv_bias={config.qkv_bias}, "
            f"out_bias={config.out_bias}, hidden_bias={config.hidden_bias}, "
            f"rotary_width={config.rotary_width}, dropout={config.dropout} and {attention}; our "
            "own folder takes it (convert --to own)"
        )


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
                **({} if scaling.amplitude is None else {"attention_factor": scaling.amplitude}),
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


FAMILIES = {
    kind: Family(
        Llama, LlamaConfig, sizes, partial(read, kind), partial(write, kind), table, fields(kind)
    )
    for kind in ARCHITECTURES
}
