"""SigLIP: tensor names and settings of ``transformers.SiglipModel``."""

from typing import Any

from attnzoo.config.two_towers import TextTowerConfig, TwoTowersConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.errors import UserError
from attnzoo.models.two_towers import TwoTowers
from attnzoo.pretrained.clip import (
    common_table,
    image_fields,
    image_settings,
    sizes,
    text_fields,
    text_settings,
    written_parts,
)
from attnzoo.pretrained.family import Family, Sizes, require
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    mapping,
    positive,
    side,
    word,
)
from attnzoo.pretrained.fields import size as length
from attnzoo.pretrained.table import Fused, Reordered, Table, linear, norm, row

TEXT = {
    "vocab_size": length(32000),
    "hidden_size": length(768),
    "intermediate_size": length(3072),
    "num_hidden_layers": depth(12),
    "num_attention_heads": length(12),
    "max_position_embeddings": length(64),
    "hidden_act": word("gelu_pytorch_tanh"),
    "layer_norm_eps": positive(1e-6),
    "projection_size": length(None),
}
IMAGE = {
    "patch_size": side(16),
    "hidden_act": word("gelu_pytorch_tanh"),
    "layer_norm_eps": positive(1e-6),
}
FIELDS = Fields.of_model(
    followed={
        "architectures": architecture(None),
        "text_config": mapping(None),
        "vision_config": mapping(None),
    },
    without_effect={
        "training alone, or values before it": "initializer_factor",
        "no output layer to tie": "tie_word_embeddings",
    },
    refused={"is_encoder_decoder": (False,)},
    parts={
        "text_config": ("siglip_text_model", text_fields("siglip_text_model", TEXT)),
        "vision_config": (
            "siglip_vision_model",
            image_fields("siglip_vision_model", IMAGE, vision_use_head=(True,)),
        ),
    },
)


def table(config: TwoTowersConfig, sizes: Sizes) -> Table:
    """Return the tensor table of SigLIP."""
    head, pool, dim = "vision_model.head", "image/pool", config.image.dim
    parts = [f"{pool}/attention/{part}" for part in ("query", "key", "value")]
    return common_table(
        config,
        row("vision_model.embeddings.patch_embedding.bias", "image/patches/projection/bias"),
        row(f"{head}.probe", f"{pool}/probe", form=Reordered((1, 1, dim), (0, 1, 2))),
        row(
            f"{head}.attention.in_proj_weight",
            *(f"{one}/kernel" for one in parts),
            form=Fused(transposed=True),
        ),
        row(f"{head}.attention.in_proj_bias", *(f"{one}/bias" for one in parts)),
        *linear(f"{head}.attention.out_proj", f"{pool}/attention/out"),
        *norm(f"{head}.layernorm", f"{pool}/norm"),
        *linear(f"{head}.mlp.fc1", f"{pool}/feed_forward/up"),
        *linear(f"{head}.mlp.fc2", f"{pool}/feed_forward/down"),
        *linear("text_model.head", "text_projection"),
        row("logit_scale", "log_scale"),
        row("logit_bias", "logit_bias"),
    )


def read(hf: Settings) -> tuple[TwoTowersConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    hf.architecture(["SiglipModel"])
    text, vision = hf.within("text_config"), hf.within("vision_config")
    width = text["projection_size"] or text["hidden_size"]
    if width != vision["hidden_size"]:
        raise vision.error("hidden_size", f"{width}, the projection_size of the text")
    config = TwoTowersConfig(
        image=ViTConfig(pooling="attention", **image_settings(vision)),
        text=TextTowerConfig(is_causal=False, pooling="last", **text_settings(text)),
        dim=None,
        scale=10.0,
        logit_bias=-10.0,
    )
    return config, (text["vocab_size"],)


def write(config: TwoTowersConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    image = {"pooling": "attention", "pre_norm": False, "patch_bias": True}
    parts = written_parts("SigLIP", config, sizes, image)
    require("SigLIP", config, {"dim": None})
    require("SigLIP text encoder", config.text, {"is_causal": False, "pooling": "last"})
    if config.logit_bias is None:
        raise UserError("transformers has no SigLIP with logit_bias=None; wanted a number")
    parts["text_config"]["projection_size"] = config.image.dim
    return {"model_type": "siglip", "architectures": ["SiglipModel"], **parts}


FAMILY = Family(TwoTowers, TwoTowersConfig, sizes, read, write, table, FIELDS)
