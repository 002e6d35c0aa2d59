"""Llama, Mistral, Mixtral, Qwen2, Qwen3: tensors and settings of their transformers models."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.llama import ExpertsConfig, LlamaConfig
from attnzoo.errors import UserError
from attnzoo.models.llama import Llama
from attnzoo.pretrained import rotary
from attnzoo.pretrained.family import Family, Sizes, require, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    count,
    depth,
    flag,
    positive,
    rate,
    size,
    word,
    words,
)
from attnzoo.pretrained.table import TRANSPOSED, Shape, Table, embedding, linear, norm, row

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SLIDING, FULL = "sliding_attention", "full_attention"
Windows = tuple[int | None, tuple[int, ...] | None]
"""Window of a model, and its layers without it."""
PLAIN = {
    "shifted_norms": False,
    "branch_norms": False,
    "scale_embeddings": False,
    "logit_softcap": None,
    "local_rotary_base": None,
}
TURNED = {"rotary_width": None}
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


def fields(kind: str) -> Fields:
    """Return the fields of the config.json of one architecture."""
    vocab, hidden, length, kv_heads = {
        "llama": (32000, 11008, 2048, None),
        "mistral": (32000, 14336, 131072, 8),
        "mixtral": (32000, 14336, 131072, 8),
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
        "rms_norm_eps": positive(1e-5 if kind == "mixtral" else 1e-6),
        "tie_word_embeddings": flag(False),
        "attention_dropout": rate(0.0),
        **rotary.FOLLOWED,
        "max_position_embeddings": size(length),
    }
    training: dict[str, str] = {}
    if kind in ("llama", "qwen3"):
        followed["attention_bias"] = flag(False)
    if kind == "llama":
        followed["mlp_bias"] = flag(False)
    if kind in ("mistral", "mixtral"):
        followed["sliding_window"] = size(4096 if kind == "mistral" else None, null=True)
    if kind == "mixtral":
        followed |= {
            "num_local_experts": size(8),
            "num_experts_per_tok": size(2),
            "router_aux_loss_coef": rate(0.001),
        }
        training = {
            "training alone": "router_jitter_noise",
            "other outputs": "output_router_logits",
        }
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
            **training,
        },
        refused={
            **rotary.WHOLE_HEAD,
            "is_causal": (True,),
            "is_encoder_decoder": (False,),
            "rope_interleaved": (False,),
            "use_mrope": (False,),
        },
        aliases={"num_experts": "num_local_experts"} if kind == "mixtral" else {},
    )


def table(config: LlamaConfig, sizes: Sizes) -> Table:
    """Return the tensor table of a decoder with the biases and norms of this config."""
    layer, ours = "model.layers.{layer}", "decoder/blocks/{layer}"
    attention, feed = f"{ours}/attention/mechanism", f"{ours}/feed_forward"
    before = "pre_feedforward_layernorm" if config.branch_norms else "post_attention_layernorm"
    qkv, out, hidden = config.qkv_bias, config.out_bias, config.hidden_bias
    rows = [
        embedding("model.embed_tokens", "embedding"),
        *norm(f"{layer}.input_layernorm", f"{ours}/attention_norm", bias=False),
        *linear(f"{layer}.self_attn.q_proj", f"{attention}/query", bias=qkv),
        *linear(f"{layer}.self_attn.k_proj", f"{attention}/key", bias=qkv),
        *linear(f"{layer}.self_attn.v_proj", f"{attention}/value", bias=qkv),
        *linear(f"{layer}.self_attn.o_proj", f"{attention}/out", bias=out),
        *norm(f"{layer}.{before}", f"{ours}/feed_forward_norm", bias=False),
        *norm("model.norm", "norm", bias=False),
    ]
    if config.experts is None:
        for name in ("gate", "up", "down"):
            rows += linear(f"{layer}.mlp.{name}_proj", f"{feed}/{name}", bias=hidden)
    else:
        own = f"{layer}.block_sparse_moe"
        rows += linear(f"{own}.gate", f"{feed}/router", bias=False)
        for theirs, name in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            one = f"{own}.experts.{{expert}}.{theirs}.weight"
            rows.append(row(one, f"{feed}/{name}", form=TRANSPOSED))
    if config.branch_norms:
        after = f"{ours}/attention_branch_norm", f"{ours}/feed_forward_branch_norm"
        rows += norm(f"{layer}.post_attention_layernorm", after[0], bias=False)
        rows += norm(f"{layer}.post_feedforward_layernorm", after[1], bias=False)
    if getattr(config.attention, "qk_norm", False):
        rows += norm(f"{layer}.self_attn.q_norm", f"{attention}/query_norm", bias=False)
        rows += norm(f"{layer}.self_attn.k_norm", f"{attention}/key_norm", bias=False)
    return Table(
        rows if config.tied else [*rows, embedding("lm_head", "output")],
        depths={"layer": config.layers},
        experts=0 if config.experts is None else config.experts.count,
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
    rotary_base, rotary_scaling = rotary.read(hf)
    window, full = _windows(kind, hf)
    config = LlamaConfig(
        attention=MultiHeadConfig(
            num_heads=heads,
            num_kv_heads=hf["num_key_value_heads"] or heads,
            head_dim=width,
            window=window,
            qk_norm=kind == "qwen3",
        ),
        global_layers=full,
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
        experts=_experts(hf) if kind == "mixtral" else None,
    )
    return config, (hf["vocab_size"],)


def _experts(hf: Settings) -> ExpertsConfig:
    if hf["num_experts_per_tok"] > hf["num_local_experts"]:
        raise hf.error(
            "num_experts_per_tok", f"at most num_local_experts={hf['num_local_experts']}"
        )
    return ExpertsConfig(
        count=hf["num_local_experts"],
        chosen=hf["num_experts_per_tok"],
        balance_weight=hf["router_aux_loss_coef"],
    )


def _windows(kind: str, hf: Settings) -> Windows:
    if kind in ("llama", "mistral", "mixtral"):
        return (None if kind == "llama" else hf["sliding_window"]), None
    window = hf["sliding_window"] if hf["use_sliding_window"] else None
    layers = hf["num_hidden_layers"]
    whole = layers if window is None else min(hf["max_window_layers"], layers)
    return windows(hf, [FULL] * whole + [SLIDING] * (layers - whole), window)


def windows(hf: Settings, default: list[str], window: int | None) -> Windows:
    """Return the window, and the layers that have none if others have one.

    ``layer_types`` says so, by ``default`` these ones.
    """
    types, layers = hf["layer_types"], hf["num_hidden_layers"]
    types = default if types is None else types
    if len(types) != layers or types.count(SLIDING) + types.count(FULL) != layers:
        raise hf.error("layer_types", f"{SLIDING} or {FULL} {layers} times")
    if SLIDING not in types:
        return None, None
    if window is None:
        raise hf.error("layer_types", f"{FULL} without a sliding_window in use")
    return window, tuple(i for i, one in enumerate(types) if one == FULL) or None


def layer_types(config: LlamaConfig) -> list[str]:
    """Return the field of that name."""
    return [FULL if config.is_global(layer) else SLIDING for layer in range(config.layers)]


def write(kind: str, config: LlamaConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    _check(kind, config)
    attention: Any = config.attention
    written = common(config, sizes) | {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "rope_parameters": {
            "rope_theta": config.rotary_base,
            **rotary.write(config.rotary_scaling),
        },
        "hidden_act": {our: name for name, our in ACTIVATIONS.items()}[config.activation],
    }
    # transformers 4 reads this instead
    written["rope_theta"] = config.rotary_base
    scaling = config.rotary_scaling
    written["rope_scaling"] = rotary.write(scaling) if scaling else None
    if kind in ("llama", "qwen3"):
        written["attention_bias"] = config.qkv_bias
    if kind == "llama":
        written["mlp_bias"] = config.hidden_bias
    else:
        written["sliding_window"] = attention.window
    if config.experts is not None:
        written |= {
            "num_local_experts": config.experts.count,
            "num_experts_per_tok": config.experts.chosen,
            "router_aux_loss_coef": config.experts.balance_weight,
        }
    if kind in ("qwen2", "qwen3"):
        written["use_sliding_window"] = attention.window is not None
        written["max_window_layers"] = 0
        if config.global_layers:
            written["layer_types"] = layer_types(config)
    return written


def common(config: LlamaConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the fields that all relatives of Llama have.

    Raises:
      UserError: transformers has no relative of Llama with this attention.
    """
    attention: Any = config.attention
    if attention.kind != "multi_head" or attention.sinks or not attention.key_bias:
        raise UserError(unsupported_message("Llama", attention))
    turned = config.rotary_width in (None, attention.head_dim or config.dim // attention.num_heads)
    require("relative of Llama", config, {"dropout": 0.0} | ({} if turned else TURNED))
    scaling = config.rotary_scaling
    dynamic = scaling is not None and scaling.kind == "dynamic"
    return {
        "vocab_size": sizes[0],
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads or attention.num_heads,
        "head_dim": attention.head_dim or config.dim // attention.num_heads,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "max_position_embeddings": scaling.original_length if dynamic else config.max_length,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "attention_dropout": config.attention_dropout,
    }


def _check(kind: str, config: LlamaConfig) -> None:
    """Raise a UserError unless the architecture has these biases, norms and windows."""
    attention: Any = config.attention
    if attention.kind != "multi_head":
        raise UserError(unsupported_message("Llama", attention))
    name, qwen = kind.title(), kind.startswith("qwen")
    require(name, attention, {"qk_norm": kind == "qwen3", "scale": None, "softcap": None})
    require(name, config, PLAIN if qwen else PLAIN | {"global_layers": None})
    require(name, config, {} if kind == "llama" else {"hidden_bias": False})
    if (config.experts is None) == (kind == "mixtral"):
        wanted = "Mixtral without" if kind == "mixtral" else f"{name} with"
        raise UserError(f"transformers has no {wanted} experts; our own folder takes it")
    require(name, attention, {"window": None} if kind == "llama" else {})
    biased = config.qkv_bias if kind in ("llama", "qwen3") else kind == "qwen2"
    require(name, config, {"qkv_bias": biased, "out_bias": biased and kind != "qwen2"})


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["embedding/table"][0],)


FAMILIES = {
    kind: Family(
        Llama, LlamaConfig, sizes, partial(read, kind), partial(write, kind), table, fields(kind)
    )
    for kind in ARCHITECTURES
}
