"""Gemma 2 and 3 (text): settings of their transformers models; the tensors are those of Llama."""

from functools import partial
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.llama import LlamaConfig
from attnzoo.config.rotary import RotaryScaling
from attnzoo.errors import UserError
from attnzoo.models.llama import Llama
from attnzoo.pretrained import llama, rotary
from attnzoo.pretrained.family import Family, Sizes, require
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    flag,
    mapping,
    positive,
    rate,
    size,
    word,
    words,
)

ARCHITECTURES = {"gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
NAMES = {"gemma2": "Gemma 2", "gemma3_text": "Gemma 3"}
ROPES = Fields({"full_attention": mapping(None), "sliding_attention": mapping(None)})
"""Fields of ``rope_parameters`` in Gemma 3."""


def fields(kind: str) -> Fields:
    """Return the fields of the config.json of one architecture."""
    second = kind == "gemma2"
    followed = {
        "architectures": architecture(None),
        "vocab_size": size(256000 if second else 262208),
        "hidden_size": size(2304),
        "intermediate_size": size(9216),
        "num_hidden_layers": depth(26),
        "num_attention_heads": size(8),
        "num_key_value_heads": size(4),
        "head_dim": size(256),
        "hidden_activation": word("gelu_pytorch_tanh"),
        "rms_norm_eps": positive(1e-6),
        "tie_word_embeddings": flag(True),
        "attention_bias": flag(False),
        "attention_dropout": rate(0.0),
        "query_pre_attn_scalar": size(256),
        "sliding_window": size(4096, null=True),
        "layer_types": words(None),
        "final_logit_softcapping": positive(30.0 if second else None, null=True),
        **rotary.FOLLOWED,
        "max_position_embeddings": size(8192 if second else 131072),
    }
    if second:
        followed["attn_logit_softcapping"] = positive(50.0, null=True)
    else:
        del followed["original_max_position_embeddings"]
        followed["rope_theta"] = positive(1_000_000.0)
        followed["rope_local_base_freq"] = positive(10_000.0)
        followed["sliding_window_pattern"] = size(6)
    return Fields.of_model(
        followed,
        without_effect={
            "the file's hidden_activation is read instead": "hidden_act",
            "form of the cache": "cache_implementation",
            "transformers does not apply it": "attn_logit_softcapping",
            "layer_types, which is beside it, says the same": "_sliding_window_pattern",
        },
        refused={
            "use_bidirectional_attention": (False, None),
            "is_encoder_decoder": (False,),
            **rotary.WHOLE_HEAD,
        },
    )


def read(kind: str, hf: Settings) -> tuple[LlamaConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    hf.architecture((ARCHITECTURES[kind], ARCHITECTURES[kind].replace("ForCausalLM", "Model")))
    hf.divide("num_attention_heads", "num_key_value_heads")
    hf.divide("hidden_size", "num_attention_heads")  # transformers wants it
    if hf["head_dim"] % 2:
        raise hf.error("head_dim", "an even number of channels per head")
    second = kind == "gemma2"
    every = 2 if second else hf["sliding_window_pattern"]
    default = [
        llama.SLIDING if (layer + 1) % every else llama.FULL
        for layer in range(hf["num_hidden_layers"])
    ]
    window, full = llama.windows(hf, default, hf["sliding_window"])
    (base, scaling), local = (rotary.read(hf), None) if second else _rotary(hf)
    biased, width, queries = hf["attention_bias"], hf["head_dim"], hf["query_pre_attn_scalar"]
    config = LlamaConfig(
        attention=MultiHeadConfig(
            num_heads=hf["num_attention_heads"],
            num_kv_heads=hf["num_key_value_heads"],
            head_dim=width,
            window=window,
            qk_norm=not second,
            scale=None if queries == width else queries**-0.5,
            softcap=hf["attn_logit_softcapping"] if second else None,
        ),
        global_layers=full,
        dim=hf["hidden_size"],
        hidden=hf["intermediate_size"],
        layers=hf["num_hidden_layers"],
        max_length=hf["max_position_embeddings"],
        rotary_base=base,
        rotary_scaling=scaling,
        local_rotary_base=None if window is None else local,
        activation=hf.choose("hidden_activation", llama.ACTIVATIONS),
        qkv_bias=biased,
        out_bias=biased,
        norm_eps=hf["rms_norm_eps"],
        shifted_norms=True,
        branch_norms=True,
        scale_embeddings=True,
        logit_softcap=hf["final_logit_softcapping"],
        tied=hf["tie_word_embeddings"],
        attention_dropout=hf["attention_dropout"],
    )
    return config, (hf["vocab_size"],)


def _rotary(hf: Settings) -> tuple[tuple[float, RotaryScaling | None], float]:
    """Return base and scaling of the layers without a window, and the base of the others."""
    ropes = hf.within("rope_parameters", ROPES)
    key = "rope_scaling" if hf["rope_scaling"] else "rope_parameters"
    whole = {**(ropes["full_attention"] or {}), **(hf["rope_scaling"] or {})}
    others = {name: hf[name] for name in ("max_position_embeddings", "rope_theta")}
    inner = Settings(others | {key: whole}, hf.place, Fields(rotary.FOLLOWED))
    local = ropes.within("sliding_attention", Fields(rotary.BASE | {"factor": positive(None)}))
    if local["rope_type"] not in (None, "default"):
        raise local.error("rope_type", "default")
    return rotary.read(inner), local["rope_theta"] or hf["rope_local_base_freq"]


def write(kind: str, config: LlamaConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    written = llama.common(config, sizes)
    attention: Any = config.attention
    name, second = NAMES[kind], kind == "gemma2"
    fixed = {"shifted_norms": True, "branch_norms": True, "scale_embeddings": True}
    fixed["experts"] = None
    fixed |= {"hidden_bias": False, "out_bias": config.qkv_bias}
    require(name, config, fixed | ({"local_rotary_base": None} if second else {}))
    require(name, attention, {"qk_norm": not second} | ({} if second else {"softcap": None}))
    queries = written["head_dim"] if attention.scale is None else round(attention.scale**-2)
    if attention.scale not in (None, queries**-0.5):
        raise UserError(
            f"transformers has no {name} with scale={attention.scale}; wanted 1 over the root of a "
            "whole number"
        )
    rope = {"rope_theta": config.rotary_base, **rotary.write(config.rotary_scaling)}
    written |= {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "hidden_activation": {our: their for their, our in llama.ACTIVATIONS.items()}[
            config.activation
        ],
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": queries,
        "sliding_window": attention.window or 4096,  # unused without such layers
        "layer_types": llama.layer_types(config),
        "final_logit_softcapping": config.logit_softcap,
        "rope_theta": config.rotary_base,
        "rope_parameters": rope,
    }
    if second:
        written["attn_logit_softcapping"] = attention.softcap
    else:
        local = config.local_rotary_base or config.rotary_base
        own = {"rope_type": "default", "rope_theta": local}
        written["rope_parameters"] = {"full_attention": rope, "sliding_attention": own}
        written["rope_local_base_freq"] = local
    return written


FAMILIES = {
    kind: Family(
        Llama,
        LlamaConfig,
        llama.sizes,
        partial(read, kind),
        partial(write, kind),
        llama.table,
        fields(kind),
    )
    for kind in ARCHITECTURES
}
