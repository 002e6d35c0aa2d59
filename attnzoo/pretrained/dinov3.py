"""DINOv3 ViT: tensor names and settings of ``transformers.DINOv3ViTModel``, which has no head.

Patches have rotary positions, and keys no bias.
"""

import dataclasses
from typing import Any

from attnzoo.config.vit import ViTConfig
from attnzoo.errors import UserError
from attnzoo.models.vit import ViT
from attnzoo.pretrained.family import Family, Sizes, plain_heads, require, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    count,
    depth,
    flag,
    positive,
    rate,
    side,
    size,
    word,
)
from attnzoo.pretrained.table import Reordered, Table, linear, norm, row
from attnzoo.pretrained.vit import ACTIVATIONS, BACKBONE, image_sizes

ARCHITECTURE = "DINOv3ViTModel"
FIELDS = Fields.of_model(
    followed={
        "architectures": architecture(None),
        "hidden_size": size(384),
        "intermediate_size": size(1536),
        "num_hidden_layers": depth(12),
        "num_attention_heads": size(6),
        "hidden_act": word("gelu"),
        "attention_dropout": rate(0.0),
        "layer_norm_eps": positive(1e-5),
        "image_size": side(224),
        "patch_size": side(16),
        "num_channels": size(3),
        "rope_theta": positive(100.0),
        "query_bias": flag(True),
        "key_bias": flag(False),
        "value_bias": flag(True),
        "layerscale_value": positive(1.0),
        "drop_path_rate": rate(0.0),
        "use_gated_mlp": flag(False),
        "num_register_tokens": count(0),
    },
    without_effect={
        BACKBONE: (
            "_out_features _out_indices out_features out_indices stage_names apply_layernorm "
            "reshape_hidden_states return_class_token"
        ),
        "training alone": "pos_embed_shift pos_embed_jitter pos_embed_rescale",
    },
    refused={"proj_bias": (True,), "mlp_bias": (True,), "is_encoder_decoder": (False,)},
)


def _key_bias(config: ViTConfig) -> bool:
    return getattr(config.attention, "key_bias", True)


def table(config: ViTConfig, sizes: Sizes) -> Table:
    """Return the tensor table of DINOv3."""
    dim, patch = config.dim, config.patch
    layer, ours = "layer.{layer}", "encoder/blocks/{layer}"
    attention, feed = f"{ours}/attention/mechanism", f"{ours}/feed_forward"
    token = Reordered((1, 1, dim), (0, 1, 2))
    pixels = Reordered((dim, config.channels, patch, patch), (2, 3, 1, 0))
    biases = {
        "query": config.use_bias,
        "key": config.use_bias and _key_bias(config),
        "value": config.use_bias,
    }
    rows = [
        row("embeddings.cls_token", "class_token", form=token),
        row("embeddings.mask_token", "mask_token", form=token),
        row("embeddings.patch_embeddings.weight", "patches/projection/kernel", form=pixels),
        row("embeddings.patch_embeddings.bias", "patches/projection/bias"),
        *(
            one
            for name, bias in biases.items()
            for one in linear(f"{layer}.attention.{name[0]}_proj", f"{attention}/{name}", bias=bias)
        ),
        *linear(f"{layer}.attention.o_proj", f"{attention}/out"),
        *norm(f"{layer}.norm1", f"{ours}/attention_norm"),
        *norm(f"{layer}.norm2", f"{ours}/feed_forward_norm"),
        row(f"{layer}.layer_scale1.lambda1", f"{ours}/attention_scale"),
        row(f"{layer}.layer_scale2.lambda1", f"{ours}/feed_forward_scale"),
        *linear(f"{layer}.mlp.up_proj", f"{feed}/up"),
        *linear(f"{layer}.mlp.down_proj", f"{feed}/down"),
        *norm("norm", "norm"),
    ]
    if config.gated:
        rows += linear(f"{layer}.mlp.gate_proj", f"{feed}/gate")
    if config.registers:
        form = Reordered((1, config.registers, dim), (0, 1, 2))
        rows += [row("embeddings.register_tokens", "registers", form=form)]
    return Table(
        rows,
        depths={"layer": config.layers},
        # A model without registers has an empty tensor of them.
        kept=() if config.registers else (r"embeddings\.register_tokens",),
        renamed=((r"^model\.layer\.", "layer."),),
    )


def read(hf: Settings) -> tuple[ViTConfig, Sizes]:
    """Return the attnzoo config; there are no other sizes."""
    hf.architecture([ARCHITECTURE])
    if hf["query_bias"] != hf["value_bias"]:
        raise hf.error("value_bias", f"{hf['query_bias']}, the value of query_bias")
    if hf["key_bias"] and not hf["query_bias"]:
        raise hf.error("key_bias", "false without query_bias")
    sizes = image_sizes(hf)
    if hf["query_bias"] and not hf["key_bias"]:
        sizes["attention"] = dataclasses.replace(sizes["attention"], key_bias=False)
    config = ViTConfig(
        **sizes,
        hidden=hf["intermediate_size"],
        positions="rotary",
        rotary_base=hf["rope_theta"],
        registers=hf["num_register_tokens"],
        mask_token=True,
        activation=hf.choose("hidden_act", ACTIVATIONS),
        gated=hf["use_gated_mlp"],
        layer_scale=hf["layerscale_value"],
        use_bias=hf["query_bias"],
        attention_dropout=hf["attention_dropout"],
        branch_rate=hf["drop_path_rate"],
    )
    if config.dim // hf["num_attention_heads"] % 4:
        raise hf.error("hidden_size", "heads of a multiple of 4 features, for rows and columns")
    return config, ()


def write(config: ViTConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    heads = plain_heads(config.attention, config.dim, key_bias=_key_bias(config))
    if heads is None:
        raise UserError(unsupported_message("DINOv3", config.attention))
    if sizes:
        raise UserError("transformers has no DINOv3 with a head; our own folder takes it (convert "
                        "--to own)")  # fmt: skip
    require(
        "DINOv3",
        config,
        {
            "positions": "rotary",
            "pooling": "class",
            "distillation": "none",
            "mask_token": True,
            "head_hidden": False,
            "pre_norm": False,
            "patch_bias": True,
            "antialias": False,
            "dropout": 0.0,
        },
    )
    if config.layer_scale is None:
        raise UserError("transformers has no DINOv3 with layer_scale=None; wanted a number")
    return {
        "model_type": "dinov3_vit",
        "architectures": [ARCHITECTURE],
        "num_attention_heads": heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.channels,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_register_tokens": config.registers,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": {ours: name for name, ours in ACTIVATIONS.items()}[config.activation],
        "rope_theta": config.rotary_base,
        "query_bias": config.use_bias,
        "key_bias": config.use_bias and _key_bias(config),
        "value_bias": config.use_bias,
        "layerscale_value": config.layer_scale,
        "drop_path_rate": config.branch_rate,
        "use_gated_mlp": config.gated,
        "attention_dropout": config.attention_dropout,
    }


FAMILY = Family(ViT, ViTConfig, lambda _: (), read, write, table, FIELDS)
