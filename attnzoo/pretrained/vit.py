"""ViT, DeiT and DINOv2: tensor names and settings of transformers, with or without a head."""

from collections.abc import Mapping
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.errors import UserError
from attnzoo.models.vit import ViT
from attnzoo.pretrained.family import Family, Sizes, plain_heads, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    flag,
    labels,
    positive,
    rate,
    side,
    size,
    word,
)
from attnzoo.pretrained.table import Reordered, Shape, Table, linear, norm, row

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "quick_gelu": "quick_gelu",
}
BACKBONE = "feature maps of a backbone, which is not read"
BARE, CLASSIFIER, DISTILLED = "Model", "ForImageClassification", "ForImageClassificationWithTeacher"
CLASSES = {
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
}


def fields(kind: str) -> Fields:
    """Return the fields of the config.json of one architecture."""
    dino = kind.startswith("dinov2")
    followed = {
        "architectures": architecture(None),
        "hidden_size": size(768),
        "num_hidden_layers": depth(12),
        "num_attention_heads": size(12),
        "hidden_act": word("gelu"),
        "hidden_dropout_prob": rate(0.0),
        "attention_probs_dropout_prob": rate(0.0),
        "layer_norm_eps": positive(1e-6 if dino else 1e-12),
        "image_size": side(224),
        "patch_size": side(14 if kind == "dinov2" else 16),
        "num_channels": size(3),
        "qkv_bias": flag(True),
        "id2label": labels(None),
        "num_labels": size(None),
    }
    if dino:
        followed |= {
            "mlp_ratio": size(4),
            "layerscale_value": positive(1.0),
            "drop_path_rate": rate(0.0),
            "use_swiglu_ffn": flag(False),
        }
    else:
        followed |= {
            "intermediate_size": size(3072),
            "pooler_output_size": size(None),
            "pooler_act": word("tanh"),
        }
    if kind == "dinov2_with_registers":
        followed["num_register_tokens"] = size(4)
    return Fields.of_model(
        followed,
        without_effect={
            BACKBONE: (
                "_out_features _out_indices out_features out_indices stage_names apply_layernorm "
                "reshape_hidden_states"
            ),
            "the decoder of masked images, which is not read": "encoder_stride",
            "the tensors show the mask token": "use_mask_token",
        },
        refused={"is_encoder_decoder": (False,)},
    )


def _table(kind: str, config: ViTConfig, sizes: Sizes) -> Table:
    dino, dim, patch = kind.startswith("dinov2"), config.dim, config.patch
    prefix = f"{kind}." if sizes else ""
    embeddings = f"{prefix}embeddings"
    layer, ours = f"{prefix}encoder.layer.{{layer}}", "encoder/blocks/{layer}"
    attention, feed = f"{ours}/attention/mechanism", f"{ours}/feed_forward"
    side = config.image_size // patch
    places = side * side + config.prefix - config.registers
    pixels = Reordered((dim, config.channels, patch, patch), (2, 3, 1, 0))
    token = Reordered((1, 1, dim), (0, 1, 2))
    rows = [
        row(f"{embeddings}.cls_token", "class_token", form=token),
        row(f"{embeddings}.patch_embeddings.projection.weight", "patches/projection/kernel",
            form=pixels),
        row(f"{embeddings}.patch_embeddings.projection.bias", "patches/projection/bias"),
        row(f"{embeddings}.position_embeddings", "positions",
            form=Reordered((1, places, dim), (0, 1, 2))),
        *(one for name in ("query", "key", "value") for one in
          linear(f"{layer}.attention.attention.{name}", f"{attention}/{name}",
                 bias=config.use_bias)),
        *linear(f"{layer}.attention.output.dense", f"{attention}/out"),
        *norm(f"{layer}.{'norm1' if dino else 'layernorm_before'}", f"{ours}/attention_norm"),
        *norm(f"{layer}.{'norm2' if dino else 'layernorm_after'}", f"{ours}/feed_forward_norm"),
        *norm(f"{prefix}layernorm", "norm"),
    ]  # fmt: skip
    if config.mask_token:
        form = Reordered((1, dim), (0, 1)) if dino else token
        rows += [row(f"{embeddings}.mask_token", "mask_token", form=form)]
    if config.distillation != "none":
        name = f"{embeddings}.distillation_token"
        rows += [row(name, "distillation_token", form=token)]
    if config.registers:
        form = Reordered((1, config.registers, dim), (0, 1, 2))
        rows += [row(f"{embeddings}.register_tokens", "registers", form=form)]
    if config.layer_scale is not None:
        rows += [
            row(f"{layer}.layer_scale1.lambda1", f"{ours}/attention_scale"),
            row(f"{layer}.layer_scale2.lambda1", f"{ours}/feed_forward_scale"),
        ]
    up, down = ("mlp.fc1", "mlp.fc2") if dino else ("intermediate.dense", "output.dense")
    if config.gated:
        rows += linear(f"{layer}.mlp.weights_in", f"{feed}/gate", f"{feed}/up")
        rows += linear(f"{layer}.mlp.weights_out", f"{feed}/down")
    else:
        rows += linear(f"{layer}.{up}", f"{feed}/up") + linear(f"{layer}.{down}", f"{feed}/down")
    if config.head_hidden:
        rows += linear(f"{prefix}pooler.dense", "pre_head")
    if sizes and config.distillation == "head":
        rows += linear("cls_classifier", "head")
        rows += linear("distillation_classifier", "distilled_head")
    elif sizes:
        rows += linear("classifier", "head")
    return Table(rows, depths={"layer": config.layers})


def image_sizes(hf: Settings) -> dict[str, Any]:
    """Return the fields of a ViTConfig that all config.json of image encoders name alike."""
    hf.divide("hidden_size", "num_attention_heads")
    hf.divide("image_size", "patch_size")
    return {
        "attention": MultiHeadConfig(num_heads=hf["num_attention_heads"]),
        "image_size": hf["image_size"],
        "patch": hf["patch_size"],
        "channels": hf["num_channels"],
        "dim": hf["hidden_size"],
        "layers": hf["num_hidden_layers"],
        "norm_eps": hf["layer_norm_eps"],
    }


def _read(kind: str, hf: Settings) -> tuple[ViTConfig, Sizes]:
    dino = kind.startswith("dinov2")
    heads = (BARE, CLASSIFIER, DISTILLED) if kind == "deit" else (BARE, CLASSIFIER)
    names = {CLASSES[kind] + one: one for one in (CLASSIFIER, *heads)}
    head = names[hf.architecture(list(names))]
    shared, dim = image_sizes(hf), hf["hidden_size"]
    gated = dino and hf["use_swiglu_ffn"]
    pooler = not dino and any(one.endswith("pooler.dense.weight") for one in hf.tensors)
    if pooler:
        hf.choose("pooler_act", {"tanh": "tanh"})
        if hf["pooler_output_size"] not in (None, dim):
            raise hf.error("pooler_output_size", f"{dim}, the hidden_size")
    own: dict[str, Any]
    if not dino:
        own = {"hidden": hf["intermediate_size"]}
    else:
        own = {
            "hidden": _hidden(dim, hf["mlp_ratio"], gated),
            "pooling": "class" if head == BARE else "class_mean",
            "layer_scale": hf["layerscale_value"],
            "branch_rate": hf["drop_path_rate"],
            "gated": gated,
        }
    if kind == "dinov2_with_registers":
        own |= {"registers": hf["num_register_tokens"], "antialias": True}
    if kind == "deit":
        own["distillation"] = "head" if head == DISTILLED else "token"
    activation = hf.choose("hidden_act", ACTIVATIONS)
    config = ViTConfig(
        **shared,
        head_hidden=pooler,
        mask_token=any(one.endswith("mask_token") for one in hf.tensors),
        activation="silu" if gated else activation,  # type: ignore[arg-type]
        use_bias=hf["qkv_bias"],
        dropout=hf["hidden_dropout_prob"],
        attention_dropout=hf["attention_probs_dropout_prob"],
        **own,
    )
    return config, () if head == BARE else (hf.num_classes(),)


def _write(kind: str, config: ViTConfig, sizes: Sizes) -> dict[str, Any]:
    dino, registers = kind.startswith("dinov2"), kind == "dinov2_with_registers"
    heads = plain_heads(config.attention, config.dim)
    if heads is None:
        raise UserError(unsupported_message("ViT", config.attention))
    has, wanted = (
        {
            "distillation": (config.distillation != "none", kind == "deit"),
            "registers": (config.registers > 0, registers),
            "layer_scale": (config.layer_scale is not None, dino),
            "antialias": (config.antialias, registers),
        },
        f"transformers has no {CLASSES[kind]}",
    )
    poolings = ("class",) if not dino else ("class_mean",) if sizes else ("class", "class_mean")
    for name, (found, right) in has.items():
        if found != right:
            raise UserError(f"{wanted} with {name}={getattr(config, name)!r}")
    for name, right in {
        "positions": ("learned",),
        "pooling": poolings,
        "gated": (False, dino),
        "head_hidden": (False, not (sizes or dino)),
        "mask_token": (dino, not sizes and not dino),
        "branch_rate": (0.0, config.branch_rate if dino else 0.0),
        "pre_norm": (False,),
        "patch_bias": (True,),
    }.items():
        if getattr(config, name) not in right:
            raise UserError(f"{wanted} with {name}={getattr(config, name)!r}")
    head = BARE if not sizes else DISTILLED if config.distillation == "head" else CLASSIFIER
    written = {
        "model_type": kind,
        "architectures": [CLASSES[kind] + head],
        "num_attention_heads": heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.channels,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": {ours: name for name, ours in ACTIVATIONS.items()}[config.activation],
        "qkv_bias": config.use_bias,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
    }
    if dino:
        written |= {
            "mlp_ratio": _ratio(config),
            "layerscale_value": config.layer_scale,
            "drop_path_rate": config.branch_rate,
            "use_swiglu_ffn": config.gated,
        }
    else:
        written["intermediate_size"] = config.hidden
    if registers:
        written["num_register_tokens"] = config.registers
    if sizes:
        labels = {str(i): f"LABEL_{i}" for i in range(sizes[0])}
        written["id2label"] = labels
        written["label2id"] = {label: int(i) for i, label in labels.items()}
    return written


def _hidden(dim: int, ratio: int, gated: bool) -> int:
    """Return DINOv2's feed-forward width; two thirds if gated, rounded up to a multiple of 8."""
    hidden = dim * ratio
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _ratio(config: ViTConfig) -> int:
    for ratio in range(1, 65):
        if _hidden(config.dim, ratio, config.gated) == config.hidden:
            return ratio
    raise UserError(
        f"transformers has no DINOv2 with hidden={config.hidden} and dim={config.dim}: wanted a "
        "multiple, with gates two thirds of one"
    )


def _sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the number of classes, if there is a head."""
    return (shapes["head/bias"][0],) if "head/bias" in shapes else ()


def _family(kind: str) -> Family:
    return Family(
        ViT,
        ViTConfig,
        _sizes,
        lambda settings: _read(kind, settings),
        lambda config, sizes: _write(kind, config, sizes),
        lambda config, sizes: _table(kind, config, sizes),
        fields(kind),
    )


FAMILIES = {kind: _family(kind) for kind in CLASSES}
