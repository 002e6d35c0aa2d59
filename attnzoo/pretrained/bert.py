"""BERT: tensor names and settings of ``transformers.BertModel`` and the models with its heads."""

from collections.abc import Mapping
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.bert import BertConfig
from attnzoo.errors import UserError
from attnzoo.models.bert import Bert
from attnzoo.pretrained.family import Family, Sizes, plain_heads, unsupported_message
from attnzoo.pretrained.fields import (
    Fields,
    Settings,
    architecture,
    depth,
    labels,
    positive,
    rate,
    size,
    word,
)
from attnzoo.pretrained.table import Row, Shape, Table, embedding, linear, norm, row

ARCHITECTURES = {
    "BertModel": "none",
    "BertForMaskedLM": "lm",
    "BertForPreTraining": "lm",
    "BertForSequenceClassification": "sequence",
    "BertForTokenClassification": "token",
}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
FIELDS = Fields.of_model(
    followed={
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
    },
    without_effect={
        "settings of Google's first program, which transformers does not read": (
            "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers "
            "pooler_size_per_head pooler_type"
        ),
    },
    refused={
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "is_encoder_decoder": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
)


def table(config: BertConfig, sizes: Sizes) -> Table:
    """Return the tensor table of BERT with the head of this config."""
    bert = "" if config.head == "none" else "bert."
    layer, ours = f"{bert}encoder.layer.{{layer}}", "encoder/blocks/{layer}"
    attention = f"{ours}/attention/mechanism"
    rows = [
        embedding(f"{bert}embeddings.word_embeddings", "tokens"),
        embedding(f"{bert}embeddings.position_embeddings", "positions"),
        embedding(f"{bert}embeddings.token_type_embeddings", "segments"),
        *norm(f"{bert}embeddings.LayerNorm", "norm"),
        *linear(f"{layer}.attention.self.query", f"{attention}/query"),
        *linear(f"{layer}.attention.self.key", f"{attention}/key"),
        *linear(f"{layer}.attention.self.value", f"{attention}/value"),
        *linear(f"{layer}.attention.output.dense", f"{attention}/out"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}/attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{ours}/feed_forward/up"),
        *linear(f"{layer}.output.dense", f"{ours}/feed_forward/down"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}/feed_forward_norm"),
    ]
    return Table(
        rows + _head(config, bert),
        depths={"layer": config.layers},
        copies={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        ignored=(
            r".*embeddings\.position_ids",  # 0, 1, 2, ...
        ),
        kept=(
            *((r"cls\.seq_relationship\..*",) if config.head == "lm" else ()),
            *((r"bert\.pooler\..*",) if config.head in ("lm", "token") else ()),
        ),
        # BertModel alone has no prefix; the first published files have TensorFlow's names.
        renamed=(
            *(((r"^bert\.", ""),) if config.head == "none" else ()),
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
    )


def _head(config: BertConfig, bert: str) -> list[Row]:
    pooler = linear(f"{bert}pooler.dense", "pooler")
    match config.head:
        case "none":
            return pooler if config.pooler else []
        case "lm":
            return [
                *linear("cls.predictions.transform.dense", "transform"),
                *norm("cls.predictions.transform.LayerNorm", "transform_norm"),
                row("cls.predictions.bias", "output_bias"),
            ]
        case "sequence":
            return [*pooler, *linear("classifier", "classifier")]
        case "token":
            return linear("classifier", "classifier")


def read(hf: Settings) -> tuple[BertConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    head: Any = ARCHITECTURES[hf.architecture(list(ARCHITECTURES))]
    hf.divide("hidden_size", "num_attention_heads")
    config = BertConfig(
        attention=MultiHeadConfig(num_heads=hf["num_attention_heads"]),
        dim=hf["hidden_size"],
        hidden=hf["intermediate_size"],
        layers=hf["num_hidden_layers"],
        activation=hf.choose("hidden_act", ACTIVATIONS),
        max_length=hf["max_position_embeddings"],
        segments=hf["type_vocab_size"],
        norm_eps=hf["layer_norm_eps"],
        head=head,
        num_classes=hf.num_classes(),
        pooler=any(name.endswith("pooler.dense.weight") for name in hf.tensors),
        dropout=hf["hidden_dropout_prob"],
        attention_dropout=hf["attention_probs_dropout_prob"],
    )
    return config, (hf["vocab_size"],)


def write(config: BertConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    heads = plain_heads(config.attention, config.dim)
    if heads is None:
        raise UserError(unsupported_message("BERT", config.attention))
    names = {head: name for name, head in reversed(ARCHITECTURES.items())}
    written = {
        "model_type": "bert",
        "architectures": [names[config.head]],
        "vocab_size": sizes[0],
        "num_attention_heads": heads,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "hidden_act": {ours: name for name, ours in ACTIVATIONS.items()}[config.activation],
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.segments,
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
    }
    if config.head in ("sequence", "token"):
        labels = [f"LABEL_{i}" for i in range(config.num_classes)]
        written["id2label"] = {str(i): label for i, label in enumerate(labels)}
        written["label2id"] = {label: i for i, label in enumerate(labels)}
    return written


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["tokens/table"][0],)


FAMILY = Family(Bert, BertConfig, sizes, read, write, table, FIELDS)
