"""BERT, RoBERTa, XLM-R, DistilBERT and ALBERT: tensors and settings of the attnzoo BERT."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.bert import BertConfig
from attnzoo.errors import UserError
from attnzoo.models.bert import Bert
from attnzoo.pretrained.bert_layouts import LAYOUTS, Layout, unmet
from attnzoo.pretrained.family import Family, Sizes, plain_heads, unsupported_message
from attnzoo.pretrained.fields import Settings
from attnzoo.pretrained.table import Row, Shape, Table, embedding, linear, norm, row

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}


def table(layout: Layout, config: BertConfig, sizes: Sizes) -> Table:
    """Return the tensor table of an encoder with the head of this config."""
    prefix, head = layout.prefix, layout.heads[config.head]
    bare = config.head == "none"
    start = "" if bare else f"{prefix}."
    layer = f"{start}{layout.layer}"
    if not config.pooler and bare:
        head = {}
    rows = [
        *(one for ours, name in layout.embeddings.items() for one in _rows(start + name, ours)),
        *(
            one
            for ours, name in layout.block.items()
            for one in _rows(f"{layer}.{name}", f"encoder/blocks/{{layer}}/{ours}")
        ),
        *(
            one
            for ours, name in head.items()
            for one in _rows(name.removeprefix(f"{prefix}.") if bare else name, ours)
        ),
    ]
    lm, numbers = config.head == "lm", config.block_numbers
    first = [numbers.index(block) for block in sorted(set(numbers))]
    return Table(
        rows,
        depths={"layer": len(first)},
        blocks={"layer": first},
        copies=layout.copies if lm else {},
        ignored=(
            r".*embeddings\.position_ids",  # 0, 1, 2, ...
        ),
        kept=(
            *(layout.kept if lm else ()),
            *(() if bare or _pooled(head) else (rf"{prefix}\.pooler\..*",)),
        ),
        # A model without a head has no prefix; the first published files have TensorFlow's names.
        renamed=(
            *(((rf"^{prefix}\.", ""),) if bare else ()),
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
    )


def _pooled(head: Mapping[str, str]) -> bool:
    return ".pooler" in head.get("pooler", "")


def _rows(name: str, ours: str) -> list[Row]:
    kind = ours.rsplit("/", 1)[-1]
    if kind in ("tokens", "positions", "segments"):
        return [embedding(name, ours)]
    if kind == "output_bias":
        return [row(name, ours)]
    return norm(name, ours) if kind.endswith("norm") else linear(name, ours)


def read(layout: Layout, hf: Settings) -> tuple[BertConfig, Sizes]:
    """Return the attnzoo config, and the vocabulary size."""
    head: Any = layout.classes[hf.architecture(list(layout.classes))]
    names, followed = layout.settings, hf.fields.followed
    heads = "n_heads" if "n_heads" in followed else "num_attention_heads"
    hf.divide(names["dim"], heads)
    found = {ours: hf[name] for ours, name in names.items()} | dict(layout.fixed)
    found["activation"] = hf.choose(names["activation"], ACTIVATIONS)
    if layout.prefix == "roberta":
        offset = found["position_offset"] = hf["pad_token_id"] + 1
        found["max_length"] -= offset
        if found["max_length"] < 1:
            raise hf.error(names["max_length"], f"more than {offset}, the place after pad_token_id")
        if head == "lm" and found["activation"] != "gelu":
            raise hf.error(names["activation"], "gelu, which the masked-token head has")
    if found["layer_groups"] is not None and found["layer_groups"] > found["layers"]:
        raise hf.error(names["layer_groups"], f"at most {found['layers']}, the number of layers")
    config = BertConfig(
        attention=MultiHeadConfig(num_heads=hf[heads]),
        head=head,
        num_classes=hf.num_classes(),
        pooler=any(name.endswith(("pooler.dense.weight", "pooler.weight")) for name in hf.tensors),
        **found,
    )
    return config, (hf["vocab_size"],)


def write(kind: str, config: BertConfig, sizes: Sizes) -> dict[str, Any]:
    """Return the config.json of this config."""
    layout = LAYOUTS[kind]
    heads = plain_heads(config.attention, config.dim)
    if heads is None:
        raise UserError(unsupported_message(layout.name, config.attention))
    if problem := unmet(layout, config):
        raise UserError(f"transformers has no {layout.name} with {problem}")
    names = {head: name for name, head in reversed(list(layout.classes.items()))}
    written: dict[str, Any] = {
        "model_type": kind,
        "architectures": [names[config.head]],
        "vocab_size": sizes[0],
        "n_heads" if "n_heads" in layout.fields.followed else "num_attention_heads": heads,
        **{name: getattr(config, ours) for ours, name in layout.settings.items()},
    }
    activation = layout.settings["activation"]
    written[activation] = {ours: name for name, ours in ACTIVATIONS.items()}[config.activation]
    if layout.prefix == "roberta":
        written["pad_token_id"] = config.position_offset - 1
        written["max_position_embeddings"] += config.position_offset
    if "layer_groups" in layout.settings:
        written[layout.settings["layer_groups"]] = config.layer_groups or config.layers
    if config.head in ("sequence", "token"):
        labels = [f"LABEL_{i}" for i in range(config.num_classes)]
        written["id2label"] = {str(i): label for i, label in enumerate(labels)}
        written["label2id"] = {label: i for i, label in enumerate(labels)}
    return written


def sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """Return the vocabulary size."""
    return (shapes["tokens/table"][0],)


FAMILIES = {
    kind: Family(
        Bert,
        BertConfig,
        sizes,
        partial(read, layout),
        partial(write, kind),
        partial(table, layout),
        layout.fields,
    )
    for kind, layout in LAYOUTS.items()
}
