"""T5: tensor names and settings of ``transformers.T5ForConditionalGeneration``, 1.0 and 1.1."""

import re
from collections.abc import Mapping
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.t5 import T5Config
from attnzoo.errors import UserError
from attnzoo.models.t5 import T5
from attnzoo.pretrained.family import Family, Sizes, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    flag,
    positive,
    rate,
    size,
    token,
    word,
)
from attnzoo.pretrained.table import (
    TRANSPOSED,
    Row,
    Shape,
    Table,
    embedding,
    linear,
    norm,
    row,
)

ARCHITECTURES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}
FIELDS = Fields.of_model(
    followed={
        "architectures": architecture(None),
        "vocab_size": size(32128),
        "d_model": size(512),
        "d_kv": size(64),
        "d_ff": size(2048),
        "num_layers": depth(6),
        "num_decoder_layers": depth(None),
        "num_heads": size(8),
        "relative_attention_num_buckets": size(32),
        "relative_attention_max_distance": size(128),
        "dropout_rate": rate(0.1),
        "layer_norm_epsilon": positive(1e-6),
        "feed_forward_proj": word("relu"),
        "dense_act_fn": word(None),
        "is_gated_act": flag(None),
        "tie_word_embeddings": flag(True, null=True),
        "scale_decoder_outputs": flag(None),
        "pad_token_id": token(0),
        "decoder_start_token_id": token(None),
        "eos_token_id": token(1),
    },
    without_effect={
        "training alone, or values before it": "initializer_factor",
        "length of the texts of training, which transformers does not read": "n_positions",
    },
    refused={"is_decoder": (False,), "is_encoder_decoder": (True,), "is_causal": (True,)},
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
)


def table(config: T5Config, sizes: Sizes) -> Table:
    """Return the tensor table of T5."""
    rows = [
        embedding("shared", "tokens"),
        *([] if config.tied else [embedding("lm_head", "output")]),
        *_stack("encoder", config.gated),
        *_stack("decoder", config.gated),
    ]
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    copies += ["lm_head.weight"] if config.tied else []
    return Table(
        rows,
        depths={"encoder": config.encoder_layers, "decoder": config.decoder_layers},
        copies=dict.fromkeys(copies, "shared.weight"),
        # The first files have a relative bias for cross-attention, which no version uses.
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def _stack(side: str, gated: bool) -> list[Row]:
    layer, ours = f"{side}.block.{{{side}}}.layer", f"{side}/blocks/{{{side}}}"
    last = 1 if side == "encoder" else 2
    feed, dense = f"{ours}/feed_forward", f"{layer}.{last}.DenseReluDense"
    rows = [
        row(
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"{side}_bias/table",
            form=TRANSPOSED,
        ),
        *_attention(f"{layer}.0.SelfAttention", f"{ours}/attention/mechanism"),
        *norm(f"{layer}.0.layer_norm", f"{ours}/attention_norm", bias=False),
        *linear(f"{dense}.wo", f"{feed}/down", bias=False),
        *norm(f"{layer}.{last}.layer_norm", f"{ours}/feed_forward_norm", bias=False),
        *norm(f"{side}.final_layer_norm", f"{side}_norm", bias=False),
    ]
    if gated:
        rows += linear(f"{dense}.wi_0", f"{feed}/gate", bias=False)
        rows += linear(f"{dense}.wi_1", f"{feed}/up", bias=False)
    else:
        rows += linear(f"{dense}.wi", f"{feed}/up", bias=False)
    if side == "decoder":
        rows += _attention(f"{layer}.1.EncDecAttention", f"{ours}/cross_attention")
        rows += norm(f"{layer}.1.layer_norm", f"{ours}/cross_norm", bias=False)
    return rows


def _attention(theirs: str, ours: str) -> list[Row]:
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return [
        one
        for short, name in names.items()
        for one in linear(f"{theirs}.{short}", f"{ours}/{name}", bias=False)
    ]


def read(hf: Settings) -> tuple[T5Config, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    hf.architecture(ARCHITECTURES)
    activation, gated = _feed_forward(hf)
    # In T5 "tie_word_embeddings" decides about the output scale; the tensors show whether the
    # output layer is a separate matrix.
    scaled = hf["scale_decoder_outputs"]
    scaled = hf["tie_word_embeddings"] is not False if scaled is None else scaled
    start, layers = hf["decoder_start_token_id"], hf["num_layers"]
    attention = MultiHeadConfig(num_heads=hf["num_heads"], head_dim=hf["d_kv"])
    config = T5Config(
        attention=attention,
        cross_attention=attention,
        dim=hf["d_model"],
        hidden=hf["d_ff"],
        encoder_layers=layers,
        decoder_layers=hf["num_decoder_layers"] or layers,
        activation=activation,
        gated=gated,
        buckets=hf["relative_attention_num_buckets"],
        max_distance=hf["relative_attention_max_distance"],
        norm_eps=hf["layer_norm_epsilon"],
        tied=scaled or "lm_head.weight" not in hf.tensors,
        scaled_head=scaled,
        dropout=hf["dropout_rate"],
        pad_id=hf["pad_token_id"],
        start_id=hf["pad_token_id"] if start is None else start,
        eos_id=hf["eos_token_id"],
    )
    return config, (hf["vocab_size"],)


def _feed_forward(hf: Settings) -> tuple[Any, bool]:
    """Return the activation, and whether the layer is gated.

    transformers derives ``dense_act_fn`` and ``is_gated_act`` from ``feed_forward_proj``, unless
    the file has them. A gated GELU is the tanh form.
    """
    form = hf["feed_forward_proj"]
    name = "gelu_new" if form == "gated-gelu" else form.removeprefix("gated-")
    gated = hf["is_gated_act"]
    if name not in ACTIVATIONS and (hf["dense_act_fn"] is None or not re.fullmatch(r"[^-]+", name)):
        forms = [*ACTIVATIONS, *(f"gated-{one}" for one in ACTIVATIONS)]
        raise hf.error("feed_forward_proj", " or ".join(forms))
    gated = form.startswith("gated-") if gated is None else gated
    if hf["dense_act_fn"] is not None:
        return hf.choose("dense_act_fn", ACTIVATIONS), gated
    return ACTIVATIONS[name], gated


def write(config: T5Config, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    attention = config.attention
    same = {attention, config.cross_attention, config.decoder_attention or attention}
    plain = MultiHeadConfig(
        num_heads=getattr(attention, "num_heads", 1), head_dim=getattr(attention, "head_dim", None)
    )
    if same != {plain}:
        raise UserError(unsupported_message("T5", ", ".join(sorted(map(str, same)))))
    if config.scaled_head and not config.tied:
        raise UserError(
            "transformers has no T5 with scaled_head=true and tied=false; wanted tied=true, or "
            "scaled_head=false"
        )
    name = {ours: name for name, ours in ACTIVATIONS.items()}[config.activation]
    form = f"gated-{name}".replace("gelu_new", "gelu") if config.gated else name
    return {
        "model_type": "t5",
        "architectures": [ARCHITECTURES[0]],
        "is_encoder_decoder": True,
        "vocab_size": sizes[0],
        "num_heads": plain.num_heads,
        "d_kv": plain.head_dim or config.dim // plain.num_heads,
        "d_model": config.dim,
        "d_ff": config.hidden,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "feed_forward_proj": form,
        "dense_act_fn": name,
        "is_gated_act": config.gated,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.scaled_head,
        "dropout_rate": config.dropout,
        "pad_token_id": config.pad_id,
        "decoder_start_token_id": config.start_id,
        "eos_token_id": config.eos_id,
    }


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["tokens/table"][0],)


FAMILY = Family(T5, T5Config, sizes, read, write, table, FIELDS)
