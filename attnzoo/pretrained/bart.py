"""BART, mBART, M2M100 (with NLLB) and Marian: tensors and settings of the attnzoo Transformer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.errors import UserError
from attnzoo.models.transformer import Transformer
from attnzoo.pretrained.family import Family, Sizes, plain_heads, require, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    flag,
    rate,
    size,
    token,
    word,
)
from attnzoo.pretrained.table import (
    Reordered,
    Row,
    Shape,
    Table,
    embedding,
    linear,
    norm,
    row,
)

ARCHITECTURES = {
    "bart": ("BartForConditionalGeneration", "BartModel"),
    "marian": ("MarianMTModel", "MarianModel"),
    "mbart": ("MBartForConditionalGeneration", "MBartModel"),
    "m2m_100": ("M2M100ForConditionalGeneration", "M2M100Model"),
}
NAMES = {"bart": "BART", "marian": "Marian", "mbart": "mBART", "m2m_100": "M2M100"}
FORMS: dict[str, dict[str, Any]] = {
    "bart": {
        "norm": "post",
        "positions": "learned",
        "position_offset": 2,
        "embedding_norm": True,
    },
    "marian": {
        "norm": "post",
        "positions": "sinusoidal_halves",
        "position_offset": 0,
        "embedding_norm": False,
    },
    "mbart": {
        "norm": "pre",
        "positions": "learned",
        "position_offset": 2,
        "embedding_norm": True,
    },
    "m2m_100": {
        "norm": "pre",
        "positions": "sinusoidal_tensor2tensor",
        "embedding_norm": False,
    },
}
"""Settings of each architecture that its config.json cannot change.

The first position of M2M100 is that after ``pad_token_id``.
"""
ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
}


def fields(kind: str) -> Fields:
    """Return the fields of the config.json of one architecture."""
    marian, m2m = kind == "marian", kind == "m2m_100"
    pad, end = (58100, 0) if marian else (1, 2)
    followed = {
        "architectures": architecture(None),
        "vocab_size": size({"marian": 58101, "m2m_100": 128112}.get(kind, 50265)),
        "max_position_embeddings": size(1024),
        "encoder_layers": depth(12),
        "encoder_ffn_dim": size(4096),
        "encoder_attention_heads": size(16),
        "decoder_layers": depth(12),
        "decoder_ffn_dim": size(4096),
        "decoder_attention_heads": size(16),
        "activation_function": word("relu" if m2m else "gelu"),
        "d_model": size(1024),
        "dropout": rate(0.1),
        "attention_dropout": rate(0.1 if m2m else 0.0),
        "activation_dropout": rate(0.0),
        "scale_embedding": flag(m2m),
        "pad_token_id": token(pad),
        "decoder_start_token_id": token({"marian": pad, "mbart": None}.get(kind, end)),
        "eos_token_id": token(end),
    }
    if marian:
        followed["decoder_vocab_size"] = size(None)
        followed["share_encoder_decoder_embeddings"] = flag(True)
    return Fields.of_model(
        followed,
        without_effect={
            "training alone, or values before it": (
                "encoder_layerdrop decoder_layerdrop init_std classif_dropout"
            ),
            "settings of fairseq and of first versions, which transformers does not read": (
                "extra_pos_embeddings force_bos_token_to_be_generated save_step"
            ),
        },
        refused={
            "is_decoder": (False,),
            "is_encoder_decoder": (True,),
            "is_causal": (True,),
            "tie_word_embeddings": (True,),
            "normalize_before": (FORMS[kind]["norm"] == "pre",),
            "normalize_embedding": (FORMS[kind]["embedding_norm"],),
            "static_position_embeddings": (FORMS[kind]["positions"] != "learned",),
            "add_final_layer_norm": (FORMS[kind]["norm"] == "pre",),
            "add_bias_logits": (False,),
        },
        aliases={
            "hidden_size": "d_model",
            "num_attention_heads": "encoder_attention_heads",
            "num_hidden_layers": "encoder_layers",
        },
    )


def table(config: TransformerConfig, sizes: Sizes) -> Table:
    """Return the tensor table of a Transformer with the norms and positions of this config."""
    target = sizes[1]
    rows = [*stack("encoder", "source", config), *stack("decoder", "target", config)]
    if config.output_bias:
        rows.append(row("final_logits_bias", "output_bias", form=Reordered((1, target), (0, 1))))
    sides = ["model.encoder.embed_tokens", "model.decoder.embed_tokens"]
    if config.tied == "all":
        rows.append(embedding("model.shared", "source_embedding"))
        copies = [f"{name}.weight" for name in (*sides, "lm_head")]
        tied = dict.fromkeys(copies, "model.shared.weight")
    else:
        rows += map(embedding, sides, ("source_embedding", "target_embedding"))
        tied = {"lm_head.weight": f"{sides[1]}.weight"}
    return Table(
        rows,
        depths={"encoder": config.encoder_layers, "decoder": config.decoder_layers},
        copies=tied,
        constants=(
            {}
            if config.positions != "sinusoidal_halves"
            else {f"model.{side}.embed_positions.weight": _sines for side in ("encoder", "decoder")}
        ),
        # fairseq's sines of M2M100 are computed.
        ignored=(
            (r"model\.(encoder|decoder)\.embed_positions\.weights?",)
            if config.positions == "sinusoidal_tensor2tensor"
            else ()
        ),
        # A model without its output layer has no prefix.
        renamed=((r"^(shared|encoder|decoder)\.", r"model.\1."),),
    )


def _sines(shape: Shape) -> np.ndarray:
    """Return Marian's table of positions: all sines, then all cosines."""
    rates = 10_000.0 ** (-np.arange(0, shape[-1], 2) / shape[-1])
    angles = np.arange(shape[0])[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def stack(side: str, text: str, config: TransformerConfig, *, key_bias: bool = True) -> list[Row]:
    """Return the rows of the encoder or decoder, without its token embeddings."""
    layer, ours = f"model.{side}.layers.{{{side}}}", f"{side}/blocks/{{{side}}}"
    rows = [
        *_attention(f"{layer}.self_attn", f"{ours}/attention/mechanism", key_bias),
        *norm(f"{layer}.self_attn_layer_norm", f"{ours}/attention_norm"),
        *linear(f"{layer}.fc1", f"{ours}/feed_forward/up"),
        *linear(f"{layer}.fc2", f"{ours}/feed_forward/down"),
        *norm(f"{layer}.final_layer_norm", f"{ours}/feed_forward_norm"),
    ]
    if side == "decoder":
        rows += _attention(f"{layer}.encoder_attn", f"{ours}/cross_attention", key_bias)
        rows += norm(f"{layer}.encoder_attn_layer_norm", f"{ours}/cross_norm")
    if config.positions == "learned":
        rows.append(embedding(f"model.{side}.embed_positions", f"{text}_positions"))
    if config.norm == "pre":
        rows += norm(f"model.{side}.layer_norm", f"{side}_norm")
    if config.embedding_norm:
        rows += norm(f"model.{side}.layernorm_embedding", f"{text}_norm")
    return rows


def _attention(theirs: str, ours: str, key_bias: bool) -> list[Row]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return [
        one
        for short, name in names.items()
        for one in linear(f"{theirs}.{short}", f"{ours}/{name}", bias=key_bias or name != "key")
    ]


def read(kind: str, hf: Settings) -> tuple[TransformerConfig, Sizes]:
    """Return the attnzoo config, and the sizes of both vocabularies."""
    hf.architecture(ARCHITECTURES[kind])
    if hf["decoder_ffn_dim"] != hf["encoder_ffn_dim"]:
        raise hf.error("decoder_ffn_dim", f"{hf['encoder_ffn_dim']}, as encoder_ffn_dim")
    form = FORMS[kind]
    for side in ("encoder", "decoder"):
        hf.divide("d_model", f"{side}_attention_heads")
    if form["positions"] != "learned" and (hf["d_model"] % 2 or hf["d_model"] < 4):
        raise hf.error("d_model", "an even number from 4, for sines and cosines")
    past = MultiHeadConfig(num_heads=hf["decoder_attention_heads"])
    attention = MultiHeadConfig(num_heads=hf["encoder_attention_heads"])
    shared = kind != "marian" or hf["share_encoder_decoder_embeddings"]
    pad, start, end = (hf[f"{name}_token_id"] for name in ("pad", "decoder_start", "eos"))
    config = TransformerConfig(
        attention=attention,
        decoder_attention=None if past == attention else past,
        cross_attention=past,
        dim=hf["d_model"],
        hidden=hf["encoder_ffn_dim"],
        encoder_layers=hf["encoder_layers"],
        decoder_layers=hf["decoder_layers"],
        norm_eps=1e-5,
        activation=hf.choose("activation_function", ACTIVATIONS),
        **{"position_offset": pad + 1, **form},
        max_length=hf["max_position_embeddings"],
        scale_embeddings=hf["scale_embedding"],
        tied="all" if shared else "target",
        output_bias="final_logits_bias" in hf.tensors,
        dropout=hf["dropout"],
        attention_dropout=hf["attention_dropout"],
        activation_dropout=hf["activation_dropout"],
        pad_id=pad,
        # The start token of mBART is a language, which its file need not name.
        start_id=end if start is None else start,
        eos_id=end,
    )
    vocab = hf["vocab_size"]
    return config, (vocab, vocab if shared else hf["decoder_vocab_size"] or vocab)


def write(kind: str, config: TransformerConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    name, marian = NAMES[kind], kind == "marian"
    past = config.decoder_attention or config.attention
    heads = [plain_heads(one, config.dim) for one in (config.attention, past)]
    if None in heads or plain_heads(config.cross_attention, config.dim) != heads[1]:
        every = (config.attention, past, config.cross_attention)
        raise UserError(unsupported_message(name, ", ".join(map(str, dict.fromkeys(every)))))
    fixed = {"position_offset": config.pad_id + 1, **FORMS[kind]}
    fixed |= {"norm_eps": 1e-5, "use_bias": True}
    fixed |= {"output_bias": False} if kind == "m2m_100" else {}
    require(name, config, fixed)
    if config.tied != "all" and not (marian and config.tied == "target"):
        raise UserError(f"transformers has no {name} with tied={config.tied}; wanted all")
    written = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind][0]],
        "is_encoder_decoder": True,
        "vocab_size": sizes[0],
        "encoder_attention_heads": heads[0],
        "decoder_attention_heads": heads[1],
        "d_model": config.dim,
        "encoder_ffn_dim": config.hidden,
        "decoder_ffn_dim": config.hidden,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "activation_function": written_activation(config.activation),
        "max_position_embeddings": config.max_length,
        "scale_embedding": config.scale_embeddings,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "pad_token_id": config.pad_id,
        "decoder_start_token_id": config.start_id,
        "eos_token_id": config.eos_id,
        "forced_eos_token_id": config.eos_id,
    }
    if marian:
        written["share_encoder_decoder_embeddings"] = config.tied == "all"
        written["decoder_vocab_size"] = sizes[1]
    return written


def written_activation(activation: str) -> str:
    """Return the name of an activation in a config.json."""
    return {v: k for k, v in reversed(ACTIVATIONS.items())}[activation]


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the sizes of both vocabularies; 0 for a source that is no text."""
    source, target = (
        shapes.get(f"{side}_embedding/table", (0,))[0] for side in ("source", "target")
    )
    return source, target or source


FAMILIES = {
    kind: Family(
        Transformer,
        TransformerConfig,
        sizes,
        partial(read, kind),
        partial(write, kind),
        table,
        fields(kind),
    )
    for kind in ARCHITECTURES
}
