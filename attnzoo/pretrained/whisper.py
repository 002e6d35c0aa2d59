"""Whisper: tensors and settings of the attnzoo Transformer with ``source.kind=sound_whisper``."""

from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.speech import SoundWhisperConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.errors import UserError
from attnzoo.models.transformer import Transformer
from attnzoo.pretrained import bart
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
from attnzoo.pretrained.table import Reordered, Row, Table, embedding, row

ARCHITECTURES = ("WhisperForConditionalGeneration", "WhisperModel")
FORM: dict[str, Any] = {
    "norm": "pre",
    "norm_eps": 1e-5,
    "positions": "learned",
    "position_offset": 0,
    "embedding_norm": False,
    "scale_embeddings": False,
    "use_bias": True,
    "output_bias": False,
}
"""Settings that a config.json cannot change."""
FIELDS = Fields.of_model(
    {
        "architectures": architecture(None),
        "vocab_size": size(51865),
        "num_mel_bins": size(80),
        "max_source_positions": size(1500),
        "max_target_positions": size(448),
        "encoder_layers": depth(4),
        "encoder_ffn_dim": size(1536),
        "encoder_attention_heads": size(6),
        "decoder_layers": depth(4),
        "decoder_ffn_dim": size(1536),
        "decoder_attention_heads": size(6),
        "activation_function": word("gelu"),
        "d_model": size(384),
        "dropout": rate(0.0),
        "attention_dropout": rate(0.0),
        "activation_dropout": rate(0.0),
        "pad_token_id": token(50256),
        "decoder_start_token_id": token(50257),
        "eos_token_id": token(50256),
        "tie_word_embeddings": flag(True),
    },
    without_effect={
        "training alone, or values before it": (
            "encoder_layerdrop decoder_layerdrop init_std apply_spec_augment mask_time_prob "
            "mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length "
            "mask_feature_min_masks"
        ),
        "classification of sounds alone": "use_weighted_layer_sum classifier_proj_size",
        "transformers multiplies no embedding of Whisper": "scale_embedding",
        "times of words, which are read from config.json; saved again": "median_filter_width",
        "settings of generation, not of the model; saved again": "forced_decoder_ids",
    },
    refused={
        "is_decoder": (False,),
        "is_encoder_decoder": (True,),
        "is_causal": (True,),
    },
    aliases={
        "num_key_value_heads": "encoder_attention_heads",
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
)


def read(hf: Settings) -> tuple[TransformerConfig, Sizes]:
    """Return the attnzoo config, and the sizes of the vocabularies: no source, the target's."""
    hf.architecture(ARCHITECTURES)
    if hf["decoder_ffn_dim"] != hf["encoder_ffn_dim"]:
        raise hf.error("decoder_ffn_dim", f"{hf['encoder_ffn_dim']}, as encoder_ffn_dim")
    for side in ("encoder", "decoder"):
        hf.divide("d_model", f"{side}_attention_heads")
    if hf["d_model"] % 2 or hf["d_model"] < 4:
        raise hf.error("d_model", "an even number from 4, for sines and cosines")
    if hf["num_mel_bins"] > 128:
        raise hf.error("num_mel_bins", "at most 128, so that no filter is empty")
    past = MultiHeadConfig(num_heads=hf["decoder_attention_heads"], key_bias=False)
    attention = MultiHeadConfig(num_heads=hf["encoder_attention_heads"], key_bias=False)
    config = TransformerConfig(
        attention=attention,
        decoder_attention=None if past == attention else past,
        cross_attention=past,
        source=SoundWhisperConfig(
            mels=hf["num_mel_bins"], dim=hf["d_model"], length=hf["max_source_positions"]
        ),
        dim=hf["d_model"],
        hidden=hf["encoder_ffn_dim"],
        encoder_layers=hf["encoder_layers"],
        decoder_layers=hf["decoder_layers"],
        activation=hf.choose("activation_function", bart.ACTIVATIONS),
        max_length=hf["max_target_positions"],
        tied="target" if hf["tie_word_embeddings"] else "none",
        dropout=hf["dropout"],
        attention_dropout=hf["attention_dropout"],
        activation_dropout=hf["activation_dropout"],
        pad_id=hf["pad_token_id"],
        start_id=hf["decoder_start_token_id"],
        eos_id=hf["eos_token_id"],
        **FORM,
    )
    return config, (0, hf["vocab_size"])


def write(config: TransformerConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    source: Any = config.source
    past = config.decoder_attention or config.attention
    every = (config.attention, past, config.cross_attention)
    heads = [plain_heads(one, config.dim, key_bias=False) for one in every]
    if None in heads or heads[1] != heads[2]:
        raise UserError(unsupported_message("Whisper", ", ".join(map(str, dict.fromkeys(every)))))
    require("Whisper", config, FORM)
    require("Whisper", source, {"rate": 16_000, "normalise": False, "dim": config.dim})
    return {
        "model_type": "whisper",
        "architectures": [ARCHITECTURES[0]],
        "is_encoder_decoder": True,
        "vocab_size": sizes[1],
        "num_mel_bins": source.mels,
        "max_source_positions": source.length,
        "max_target_positions": config.max_length,
        "encoder_attention_heads": heads[0],
        "decoder_attention_heads": heads[1],
        "d_model": config.dim,
        "encoder_ffn_dim": config.hidden,
        "decoder_ffn_dim": config.hidden,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "activation_function": bart.written_activation(config.activation),
        "tie_word_embeddings": config.tied == "target",
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "pad_token_id": config.pad_id,
        "decoder_start_token_id": config.start_id,
        "eos_token_id": config.eos_id,
    }


def table(config: TransformerConfig, sizes: Sizes) -> Table:
    """Return the tensor table of a Whisper."""
    rows: list[Row] = []
    source: Any = config.source
    for side, text in (("encoder", "source"), ("decoder", "target")):
        rows += bart.stack(side, text, config, key_bias=False)
    rows = [one for one in rows if one.ours != ("source_positions/table",)]
    for name, ours, channels in (
        ("conv1", "first", source.mels),
        ("conv2", "second", config.dim),
    ):
        kernel, bias = (f"source_encoder/{ours}/joined/{part}" for part in ("kernel", "bias"))
        form = Reordered((config.dim, channels, 3), (2, 1, 0))
        rows.append(row(f"model.encoder.{name}.weight", kernel, form=form))
        rows.append(row(f"model.encoder.{name}.bias", bias))
    rows.append(embedding("model.encoder.embed_positions", "source_encoder/positions"))
    rows.append(embedding("model.decoder.embed_tokens", "target_embedding"))
    if config.tied == "none":
        rows.append(embedding("proj_out", "output"))
    tied = {"proj_out.weight": "model.decoder.embed_tokens.weight"}
    return Table(
        rows,
        depths={"encoder": config.encoder_layers, "decoder": config.decoder_layers},
        copies=tied if config.tied == "target" else {},
        # A model without its output layer has no prefix.
        renamed=((r"^(encoder|decoder)\.", r"model.\1."),),
    )


FAMILIES = {
    "whisper": Family(
        Transformer,
        TransformerConfig,
        bart.sizes,
        read,
        write,
        table,
        FIELDS,
        source=SoundWhisperConfig.kind,
    )
}
