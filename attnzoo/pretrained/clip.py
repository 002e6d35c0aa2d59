"""CLIP: tensor names and settings of ``transformers.CLIPModel``; both encoders are read together.

SigLIP shares most of it (``attnzoo.pretrained.siglip``).
"""

from collections.abc import Mapping
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.two_towers import TextTowerConfig, TwoTowersConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.errors import UserError
from attnzoo.models.two_towers import TwoTowers
from attnzoo.pretrained.family import Family, Sizes, plain_heads, require, unsupported_message
from attnzoo.pretrained.fields import (
    Field,
    Fields,
    Settings,
    architecture,
    depth,
    mapping,
    positive,
    rate,
    side,
    size,
    token,
    word,
)
from attnzoo.pretrained.table import Reordered, Row, Shape, Table, embedding, linear, norm, row
from attnzoo.pretrained.vit import ACTIVATIONS as VIT_ACTIVATIONS
from attnzoo.pretrained.vit import image_sizes

ACTIVATIONS = VIT_ACTIVATIONS | {"gelu_pytorch_tanh": "gelu_tanh"}
NESTED = {
    "parts alone of a model that is read whole": "architectures projection_dim",
    "training alone": "initializer_factor dropout",
    "no output layer to tie": "tie_word_embeddings",
}
"""Fields without effect of text_config and vision_config."""


def text_fields(kind: str, followed: Mapping[str, Field], **refused: tuple[Any, ...]) -> Fields:
    """Return the fields of a text_config: the common ones, and others that are followed."""
    common = {
        "vocab_size": size(49408),
        "hidden_size": size(512),
        "intermediate_size": size(2048),
        "num_hidden_layers": depth(12),
        "num_attention_heads": size(8),
        "max_position_embeddings": size(77),
        "hidden_act": word("quick_gelu"),
        "layer_norm_eps": positive(1e-5),
        "attention_dropout": rate(0.0),
        "pad_token_id": token(1, null=True),
    }
    return Fields.of_model({**common, **followed}, NESTED, _others(kind) | refused)


def image_fields(kind: str, followed: Mapping[str, Field], **refused: tuple[Any, ...]) -> Fields:
    """Return the fields of a vision_config: the common ones, and others that are followed."""
    common = {
        "hidden_size": size(768),
        "intermediate_size": size(3072),
        "num_hidden_layers": depth(12),
        "num_attention_heads": size(12),
        "num_channels": size(3),
        "image_size": side(224),
        "patch_size": side(32),
        "hidden_act": word("quick_gelu"),
        "layer_norm_eps": positive(1e-5),
        "attention_dropout": rate(0.0),
    }
    return Fields.of_model({**common, **followed}, NESTED, _others(kind) | refused)


def _others(kind: str) -> dict[str, tuple[Any, ...]]:
    names = ("is_decoder", "is_encoder_decoder", "add_cross_attention")
    return {"model_type": (kind,), **dict.fromkeys(names, (False,))}


PARTS = {
    "text_config": (
        "clip_text_model",
        text_fields("clip_text_model", {"eos_token_id": token(49407)}),
    ),
    "vision_config": ("clip_vision_model", image_fields("clip_vision_model", {})),
}
FIELDS = Fields.of_model(
    followed={
        "architectures": architecture(None),
        **dict.fromkeys(("text_config", "vision_config"), mapping(None)),
        # In files of transformers 4, which prefers them to those above.
        **dict.fromkeys(("text_config_dict", "vision_config_dict"), mapping(None)),
        "projection_dim": size(512),
    },
    without_effect={
        "training alone, or values before it": "logit_scale_init_value initializer_factor",
        "no output layer to tie": "tie_word_embeddings",
    },
    refused={"is_encoder_decoder": (False,)},
    parts={**PARTS, **{f"{name}_dict": part for name, part in PARTS.items()}},
)


def encoder(theirs: str, ours: str) -> list[Row]:
    """Return the rows of the blocks of one encoder."""
    layer, block = f"{theirs}.encoder.layers.{{{ours}}}", f"{ours}/encoder/blocks/{{{ours}}}"
    attention, feed = f"{block}/attention/mechanism", f"{block}/feed_forward"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    rows = [
        *norm(f"{layer}.layer_norm1", f"{block}/attention_norm"),
        *norm(f"{layer}.layer_norm2", f"{block}/feed_forward_norm"),
        *linear(f"{layer}.mlp.fc1", f"{feed}/up"),
        *linear(f"{layer}.mlp.fc2", f"{feed}/down"),
    ]
    for name, part in names.items():
        rows += linear(f"{layer}.self_attn.{name}", f"{attention}/{part}")
    return rows


def common_table(config: TwoTowersConfig, *rows: Row) -> Table:
    """Return a table of what CLIP and SigLIP share, and more rows."""
    image, text, vision = config.image, "text_model", "vision_model"
    pixels = Reordered((image.dim, image.channels, image.patch, image.patch), (2, 3, 1, 0))
    embeddings = f"{vision}.embeddings"
    shared = [
        embedding(f"{text}.embeddings.token_embedding", "text/tokens"),
        embedding(f"{text}.embeddings.position_embedding", "text/positions"),
        *encoder(text, "text"),
        *norm(f"{text}.final_layer_norm", "text/norm"),
        row(f"{embeddings}.patch_embedding.weight", "image/patches/projection/kernel",
            form=pixels),
        row(f"{embeddings}.position_embedding.weight", "image/positions"),
        *encoder(vision, "image"),
        *norm(f"{vision}.post_layernorm", "image/norm"),
    ]  # fmt: skip
    return Table(
        [*shared, *rows],
        depths={"text": config.text.layers, "image": image.layers},
        ignored=(r".*\.position_ids",),
    )


def table(config: TwoTowersConfig, sizes: Sizes) -> Table:
    """Return the tensor table of CLIP."""
    vision = "vision_model"
    return common_table(
        config,
        row(
            f"{vision}.embeddings.class_embedding",
            "image/class_token",
            form=Reordered((config.image.dim,), (0,)),
        ),
        *norm(f"{vision}.pre_layrnorm", "image/pre_norm"),
        *linear("text_projection", "text_projection", bias=False),
        *linear("visual_projection", "image_projection", bias=False),
        row("logit_scale", "log_scale", form=Reordered((), ())),
    )


def text_settings(hf: Settings) -> dict[str, Any]:
    """Return the fields of a text encoder that CLIP and SigLIP share."""
    hf.divide("hidden_size", "num_attention_heads")
    return {
        "attention": MultiHeadConfig(num_heads=hf["num_attention_heads"]),
        "dim": hf["hidden_size"],
        "hidden": hf["intermediate_size"],
        "layers": hf["num_hidden_layers"],
        "max_length": hf["max_position_embeddings"],
        "activation": hf.choose("hidden_act", ACTIVATIONS),
        "norm_eps": hf["layer_norm_eps"],
        "attention_dropout": hf["attention_dropout"],
        "pad_id": hf["pad_token_id"] or 0,
    }


def image_settings(hf: Settings) -> dict[str, Any]:
    """Return the fields of an image encoder that CLIP and SigLIP share."""
    return {
        **image_sizes(hf),
        "hidden": hf["intermediate_size"],
        "activation": hf.choose("hidden_act", ACTIVATIONS),
        "attention_dropout": hf["attention_dropout"],
    }


def read(hf: Settings) -> tuple[TwoTowersConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    hf.architecture(["CLIPModel"])
    names = ("text_config", "vision_config")
    text, vision = (
        hf.within(name if hf[f"{name}_dict"] is None else f"{name}_dict") for name in names
    )
    end = text["eos_token_id"]
    config = TwoTowersConfig(
        image=ViTConfig(pre_norm=True, patch_bias=False, **image_settings(vision)),
        # Id 2 was written for every CLIP before 2023, whatever its end token.
        text=TextTowerConfig(
            eos_id=end, pooling="largest" if end == 2 else "end", **text_settings(text)
        ),
        dim=hf["projection_dim"],
    )
    return config, (text["vocab_size"],)


def written_parts(
    name: str, config: TwoTowersConfig, sizes: Sizes, image: Mapping[str, Any]
) -> dict[str, Any]:
    """Return text_config and vision_config of CLIP or SigLIP; UserError if there is no such model.

    ``image`` are the settings that the image encoder must have.
    """
    rest = {
        "positions": "learned",
        "head_hidden": False,
        "distillation": "none",
        "registers": 0,
        "mask_token": False,
        "gated": False,
        "layer_scale": None,
        "use_bias": True,
        "antialias": False,
    }
    no_dropout = {"dropout": 0.0}
    require(f"{name} image encoder", config.image, {**rest, **no_dropout, **image})
    require(f"{name} text encoder", config.text, no_dropout)
    for activation_rate in ("activation_dropout", "branch_rate"):
        require(f"{name} image encoder", config.image, {activation_rate: 0.0})
    parts = {}
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    for key, one in (("text_config", config.text), ("vision_config", config.image)):
        heads = plain_heads(one.attention, one.dim)
        if heads is None:
            raise UserError(unsupported_message(name, one.attention))
        parts[key] = {
            "hidden_size": one.dim,
            "intermediate_size": one.hidden,
            "num_hidden_layers": one.layers,
            "num_attention_heads": heads,
            "hidden_act": names[one.activation],
            "layer_norm_eps": one.norm_eps,
            "attention_dropout": one.attention_dropout,
        }
    parts["text_config"] |= {
        "vocab_size": sizes[0],
        "max_position_embeddings": config.text.max_length,
        "pad_token_id": config.text.pad_id,
    }
    parts["vision_config"] |= {
        "image_size": config.image.image_size,
        "patch_size": config.image.patch,
        "num_channels": config.image.channels,
    }
    return parts


def write(config: TwoTowersConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    image = {"pooling": "class", "pre_norm": True, "patch_bias": False}
    parts = written_parts("CLIP", config, sizes, image)
    require("CLIP", config, {"logit_bias": None})
    require("CLIP text encoder", config.text, {"is_causal": True})
    if config.dim is None or config.text.pooling == "last":
        raise UserError(f"transformers has no CLIP with dim={config.dim} and "
                        f"text.pooling={config.text.pooling}")  # fmt: skip
    largest = config.text.pooling == "largest"
    if not largest and config.text.eos_id == 2:
        raise UserError(
            "transformers has no CLIP with text.eos_id=2: it would read the state of the largest id"
        )
    parts["text_config"] |= {
        "eos_token_id": 2 if largest else config.text.eos_id,
        "projection_dim": config.dim,
    }
    parts["vision_config"] |= {"projection_dim": config.dim}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.dim,
        **parts,
    }


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["text/tokens/table"][0],)


FAMILY = Family(TwoTowers, TwoTowersConfig, sizes, read, write, table, FIELDS)
