"""GPT-2: tensor names and settings of ``transformers.GPT2LMHeadModel``.

Its layers store W as in x out, with queries, keys and values side by side.
"""

from collections.abc import Mapping
from typing import Any

from attnzoo.config import gpt2
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.errors import UserError
from attnzoo.models import gpt2 as models
from attnzoo.pretrained.family import Family, Settings, Sizes, plain_heads, unsupported_message
from attnzoo.pretrained.table import Fused, Row, Shape, Table, embedding, norm, row

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}


def table(config: gpt2.GPT2Config, sizes: Sizes) -> Table:
    """Return the tensor table of GPT-2."""
    layer, ours = "transformer.h.{layer}", "decoder/blocks/{layer}"
    attention, feed = f"{ours}/attention/mechanism", f"{ours}/feed_forward"
    parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
    rows = [
        embedding("transformer.wte", "embedding"),
        embedding("transformer.wpe", "positions"),
        *norm(f"{layer}.ln_1", f"{ours}/attention_norm"),
        *_linear(f"{layer}.attn.c_attn", *parts),
        *_linear(f"{layer}.attn.c_proj", f"{attention}/out"),
        *norm(f"{layer}.ln_2", f"{ours}/feed_forward_norm"),
        *_linear(f"{layer}.mlp.c_fc", f"{feed}/up"),
        *_linear(f"{layer}.mlp.c_proj", f"{feed}/down"),
        *norm("transformer.ln_f", "norm"),
    ]
    return Table(
        rows if config.tied else [*rows, embedding("lm_head", "output")],
        depths={"layer": config.layers},
        copies={"lm_head.weight": "transformer.wte.weight"} if config.tied else {},
        ignored=(r".*\.attn\.(masked_)?bias",),  # causal mask
        # GPT2Model alone has no prefix, like the published files.
        renamed=((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),),
    )


def _linear(theirs: str, *ours: str) -> list[Row]:
    kernels = row(f"{theirs}.weight", *(f"{one}/kernel" for one in ours), form=Fused(axis=1))
    return [kernels, row(f"{theirs}.bias", *(f"{one}/bias" for one in ours))]


def read(hf: Settings) -> tuple[gpt2.GPT2Config, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    hf.refuse_unless(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    config = gpt2.GPT2Config(
        attention=MultiHeadConfig(num_heads=hf["n_head"]),
        dim=hf["n_embd"],
        hidden=hf.get("n_inner", None),
        layers=hf["n_layer"],
        max_length=hf["n_positions"],
        activation=hf.choose("activation_function", ACTIVATIONS, "gelu_new"),
        norm_eps=hf.get("layer_norm_epsilon", 1e-5),
        tied=hf.get("tie_word_embeddings", True),
        dropout=hf.get("resid_pdrop", 0.1),
        attention_dropout=hf.get("attn_pdrop", 0.1),
    )
    return config, (hf["vocab_size"],)


def write(config: gpt2.GPT2Config, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    heads = plain_heads(config.attention, config.dim)
    if heads is None:
        raise UserError(unsupported_message("GPT-2", config.attention))
    if not config.use_bias:
        raise UserError(
            "transformers has no GPT-2 with use_bias=false; our own folder takes it "
            "(convert --to own)"
        )
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": sizes[0],
        # The defaults are those of the published vocabulary; others lack these tokens.
        **({"bos_token_id": None, "eos_token_id": None} if sizes[0] <= 50256 else {}),
        "n_head": heads,
        "n_embd": config.dim,
        "n_inner": config.hidden,
        "n_layer": config.layers,
        "n_positions": config.max_length,
        "activation_function": {our: name for name, our in ACTIVATIONS.items()}[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
    }


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["embedding/table"][0],)


GPT2 = Family(models.GPT2, gpt2.GPT2Config, sizes, read, write, table)
