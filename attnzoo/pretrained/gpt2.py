"""GPT-2: tensor names and settings of ``transformers.GPT2LMHeadModel``.

Its layers store W as in x out, with queries, keys and values side by side.
"""

from collections.abc import Mapping
from typing import Any

from attnzoo.config import gpt2
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.errors import UserError
from attnzoo.models import gpt2 as models
from attnzoo.pretrained.family import Family, Sizes, plain_heads, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    flag,
    positive,
    rate,
    size,
    word,
)
from attnzoo.pretrained.table import Fused, Row, Shape, Table, embedding, norm, row

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}
ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")
FIELDS = Fields.of_model(
    followed={
        "architectures": architecture(None),
        "vocab_size": size(50257),
        "n_positions": size(1024),
        "n_embd": size(768),
        "n_layer": depth(12),
        "n_head": size(12),
        "n_inner": size(None),
        "activation_function": word("gelu_new"),
        "resid_pdrop": rate(0.1),
        "attn_pdrop": rate(0.1),
        "layer_norm_epsilon": positive(1e-5),
        "tie_word_embeddings": flag(True),
    },
    without_effect={
        "training alone; resid_pdrop is the rate of the embeddings too": "embd_pdrop",
        "the head of GPT2DoubleHeadsModel, which is not read": (
            "summary_type summary_use_proj summary_activation summary_proj_to_labels "
            "summary_first_dropout"
        ),
        "arithmetic in float16; here the softmax is in float32": "reorder_and_upcast_attn",
        "n_positions once more, which transformers does not read": "n_ctx",
    },
    refused={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "is_encoder_decoder": (False,),
        "is_causal": (True,),
    },
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)


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
    hf.architecture(ARCHITECTURES)
    hf.divide("n_embd", "n_head")
    config = gpt2.GPT2Config(
        attention=MultiHeadConfig(num_heads=hf["n_head"]),
        dim=hf["n_embd"],
        hidden=hf["n_inner"],
        layers=hf["n_layer"],
        max_length=hf["n_positions"],
        activation=hf.choose("activation_function", ACTIVATIONS),
        norm_eps=hf["layer_norm_epsilon"],
        tied=hf["tie_word_embeddings"],
        dropout=hf["resid_pdrop"],
        attention_dropout=hf["attn_pdrop"],
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


FAMILY = Family(models.GPT2, gpt2.GPT2Config, sizes, read, write, table, FIELDS)
