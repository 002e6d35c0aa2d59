"""Names of tensors and settings in the relatives of BERT, one layout per architecture."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from attnzoo.config.bert import BertConfig
from attnzoo.pretrained.fields import (
    Field,
    Fields,
    architecture,
    depth,
    labels,
    positive,
    rate,
    size,
    token,
    word,
)

HEADS = {
    "Model": "none",
    "ForMaskedLM": "lm",
    "ForPreTraining": "lm",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}
"""Heads by the end of the names of their classes."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names in the folders of one architecture.

    Attributes:
      name: name of the architecture.
      classes: names of transformers' classes, each with its head.
      prefix: first part of all names but those of the head.
      layer: name of a block, with ``{layer}``.
      embeddings, block: names of tensors by the attnzoo paths within the model and within a block.
      heads: the same for each head, with the prefix.
      copies: tensors of the masked-token head that repeat another one.
      kept: regular expressions of tensors that attnzoo saves again, beside the pooler.
      settings: names of the fields of config.json by those of :class:`BertConfig`.
      fixed: settings that all models of the architecture have.
      fields: the fields of its config.json.
    """

    name: str
    classes: Mapping[str, str]
    prefix: str
    layer: str
    embeddings: Mapping[str, str]
    block: Mapping[str, str]
    heads: Mapping[str, Mapping[str, str]]
    copies: Mapping[str, str]
    settings: Mapping[str, str]
    fixed: Mapping[str, Any]
    fields: Fields
    kept: Sequence[str] = ()


def _classes(name: str, without: Sequence[str] = ()) -> dict[str, str]:
    return {f"{name}{end}": head for end, head in HEADS.items() if end not in without}


_EMBEDDINGS = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_BLOCK = {
    "attention/mechanism/query": "attention.self.query",
    "attention/mechanism/key": "attention.self.key",
    "attention/mechanism/value": "attention.self.value",
    "attention/mechanism/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward/up": "intermediate.dense",
    "feed_forward/down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_SETTINGS = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "max_length": "max_position_embeddings",
    "segments": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}
_FIXED = {
    "position_offset": 0,
    "embedding_dim": None,
    "layer_groups": None,
    "pooler_activation": "tanh",
}
_FOLLOWED: dict[str, Field] = {
    "architectures": architecture(None),
    "vocab_size": size(30522),
    "hidden_size": size(768),
    "num_hidden_layers": depth(12),
    "num_attention_heads": size(12),
    "intermediate_size": size(3072),
    "hidden_act": word("gelu"),
    "hidden_dropout_prob": rate(0.1),
    "attention_probs_dropout_prob": rate(0.1),
    "max_position_embeddings": size(512),
    "type_vocab_size": size(2),
    "layer_norm_eps": positive(1e-12),
    "id2label": labels(None),
    "num_labels": size(None),
}
_UNUSED = {
    "settings of the first programs, which transformers does not read": (
        "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers "
        "pooler_size_per_head pooler_type layers_to_keep net_structure_type gap_size "
        "num_memory_blocks down_scale_factor output_past"
    ),
    "training alone, or values before it": (
        "classifier_dropout_prob qa_dropout seq_classif_dropout"
    ),
}
_REFUSED: dict[str, Sequence[Any]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def _fields(
    aliases: Mapping[str, str] | None = None,
    refused: Mapping[str, Sequence[Any]] | None = None,
    **followed: Field,
) -> Fields:
    refused = {**_REFUSED, **(refused or {})}
    return Fields.of_model(_FOLLOWED | followed, _UNUSED, refused, aliases)


BERT = Layout(
    name="BERT",
    classes=_classes("Bert"),
    prefix="bert",
    layer="encoder.layer.{layer}",
    embeddings=_EMBEDDINGS,
    block=_BLOCK,
    heads={
        "none": {"pooler": "bert.pooler.dense"},
        "lm": {
            "transform": "cls.predictions.transform.dense",
            "transform_norm": "cls.predictions.transform.LayerNorm",
            "output_bias": "cls.predictions.bias",
        },
        "sequence": {"pooler": "bert.pooler.dense", "classifier": "classifier"},
        "token": {"classifier": "classifier"},
        "span": {"classifier": "qa_outputs"},
    },
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    kept=(r"cls\.seq_relationship\..*",),
    settings=_SETTINGS,
    fixed=_FIXED,
    fields=_fields(),
)


def _roberta(name: str, classes: str, vocab: int) -> Layout:
    """Return the layout of RoBERTa, whose positions begin after ``pad_token_id``."""
    return dataclasses.replace(
        BERT,
        name=name,
        classes=_classes(classes, ["ForPreTraining"]),
        prefix="roberta",
        heads={
            "none": {"pooler": "roberta.pooler.dense"},
            "lm": {
                "transform": "lm_head.dense",
                "transform_norm": "lm_head.layer_norm",
                "output_bias": "lm_head.bias",
            },
            "sequence": {"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
            "token": {"classifier": "classifier"},
            "span": {"classifier": "qa_outputs"},
        },
        copies={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        kept=(),
        fixed={key: value for key, value in _FIXED.items() if key != "position_offset"},
        fields=_fields(vocab_size=size(vocab), pad_token_id=token(1)),
    )


DISTILBERT = Layout(
    name="DistilBERT",
    classes=_classes("DistilBert", ["ForPreTraining"]),
    prefix="distilbert",
    layer="transformer.layer.{layer}",
    embeddings={ours: name for ours, name in _EMBEDDINGS.items() if ours != "segments"},
    block={
        "attention/mechanism/query": "attention.q_lin",
        "attention/mechanism/key": "attention.k_lin",
        "attention/mechanism/value": "attention.v_lin",
        "attention/mechanism/out": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "feed_forward/up": "ffn.lin1",
        "feed_forward/down": "ffn.lin2",
        "feed_forward_norm": "output_layer_norm",
    },
    heads={
        "none": {},
        "lm": {
            "transform": "vocab_transform",
            "transform_norm": "vocab_layer_norm",
            "output_bias": "vocab_projector.bias",
        },
        "sequence": {"pooler": "pre_classifier", "classifier": "classifier"},
        "token": {"classifier": "classifier"},
        "span": {"classifier": "qa_outputs"},
    },
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    settings={
        "dim": "dim",
        "layers": "n_layers",
        "hidden": "hidden_dim",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "max_length": "max_position_embeddings",
    },
    fixed=_FIXED | {"segments": 0, "norm_eps": 1e-12, "pooler_activation": "relu"},
    fields=Fields.of_model(
        followed={
            "architectures": architecture(None),
            "vocab_size": size(30522),
            "dim": size(768),
            "n_layers": depth(6),
            "n_heads": size(12),
            "hidden_dim": size(3072),
            "activation": word("gelu"),
            "dropout": rate(0.1),
            "attention_dropout": rate(0.1),
            "max_position_embeddings": size(512),
            "id2label": labels(None),
            "num_labels": size(None),
        },
        without_effect=_UNUSED
        | {
            "first values of a table that is read": "sinusoidal_pos_embds",
            "output layers are always tied here": "tie_weights_",
        },
        refused=_REFUSED,
        aliases={
            "hidden_size": "dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
        },
    ),
)

ALBERT = Layout(
    name="ALBERT",
    classes=_classes("Albert"),
    prefix="albert",
    layer="encoder.albert_layer_groups.{layer}.albert_layers.0",
    embeddings=_EMBEDDINGS | {"embedding_projection": "encoder.embedding_hidden_mapping_in"},
    block={
        "attention/mechanism/query": "attention.query",
        "attention/mechanism/key": "attention.key",
        "attention/mechanism/value": "attention.value",
        "attention/mechanism/out": "attention.dense",
        "attention_norm": "attention.LayerNorm",
        "feed_forward/up": "ffn",
        "feed_forward/down": "ffn_output",
        "feed_forward_norm": "full_layer_layer_norm",
    },
    heads={
        "none": {"pooler": "albert.pooler"},
        "lm": {
            "transform": "predictions.dense",
            "transform_norm": "predictions.LayerNorm",
            "output_bias": "predictions.bias",
        },
        "sequence": {"pooler": "albert.pooler", "classifier": "classifier"},
        "token": {"classifier": "classifier"},
        "span": {"classifier": "qa_outputs"},
    },
    copies={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    kept=(r"sop_classifier\..*",),
    settings=_SETTINGS | {"embedding_dim": "embedding_size", "layer_groups": "num_hidden_groups"},
    fixed={"position_offset": 0, "pooler_activation": "tanh"},
    fields=_fields(
        refused={"inner_group_num": (1,)},
        vocab_size=size(30000),
        embedding_size=size(128),
        hidden_size=size(4096),
        num_hidden_groups=size(1),
        num_attention_heads=size(64),
        intermediate_size=size(16384),
        hidden_act=word("gelu_new"),
        hidden_dropout_prob=rate(0.0),
        attention_probs_dropout_prob=rate(0.0),
    ),
)

LAYOUTS = {
    "bert": BERT,
    "roberta": _roberta("RoBERTa", "Roberta", 50265),
    "xlm-roberta": _roberta("XLM-R", "XLMRoberta", 30522),
    "distilbert": DISTILBERT,
    "albert": ALBERT,
}
"""Layouts by the ``model_type`` of config.json."""


def unmet(layout: Layout, config: BertConfig) -> str | None:
    """Return the first setting of a config that an architecture does not support; None if none."""
    for name, wanted in layout.fixed.items():
        unused = name == "pooler_activation" and config.head != "sequence"
        if not unused and (value := getattr(config, name)) != wanted:
            return f"{name}={value}; wanted {wanted}"
    if layout.prefix == "roberta" and config.position_offset == 0:
        return "position_offset=0; wanted 1 + the padding token"
    if layout.prefix == "roberta" and config.head == "lm" and config.activation != "gelu":
        return f"activation={config.activation} and head=lm; wanted gelu"
    if "segments" in layout.settings and config.segments == 0:
        return "segments=0; wanted 1 or more"
    if "embedding_dim" in layout.settings and config.embedding_dim is None:
        return "embedding_dim=null; wanted a width"
    return None
