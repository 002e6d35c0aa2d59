"""Folders of every pretrained family, tiny and random, with tokenizers: made from the registry."""

import io
import json
import struct
import wave
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from attnzoo import pretrained
from attnzoo.models.model import TranslationModel
from attnzoo.models.two_towers import TwoTowers
from attnzoo.models.vit import ViT
from attnzoo.pretrained import convert, files
from attnzoo.pretrained.fields import Fields, Settings

WORDS = [f"\u2581{word}" for word in ("a", "cat", "sat", "on", "the", "mat", "dog", ".")]
PIECES = ["t", "s", "e", "\u2581"]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
HEARD = ["<|en|>", "<|fr|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"]
MORE = {kind: ["[CLS]", "[SEP]", "[MASK]", "[UNK]"] for kind in ("bert", "distilbert", "albert")}
MORE["whisper"] = HEARD
TOWERS = ("clip", "siglip")
LANGUAGES = {
    "mbart": ["en_XX", "ro_RO"],
    "m2m_100": ["__en__", "__ro__"],
}
VOCABULARY = 28
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "n_embd": 12,
    "d_model": 12,
    "intermediate_size": 10,
    "n_inner": 10,
    "d_ff": 10,
    "encoder_ffn_dim": 10,
    "decoder_ffn_dim": 10,
    "num_hidden_layers": 1,
    "n_layer": 1,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_head": 2,
    "num_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_kv": 6,
    "head_dim": 6,
    "max_position_embeddings": 40,
    "n_positions": 40,
    "dim": 12,
    "hidden_dim": 10,
    "n_layers": 1,
    "n_heads": 2,
    "embedding_size": 8,
    "num_mel_bins": 8,
    "max_source_positions": 50,
    "max_target_positions": 40,
    "projection_dim": 6,
    "image_size": 8,
    "patch_size": 4,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
"""Sizes by the names that fields of config.json have; others keep transformers' defaults."""
ARCHITECTURES = {
    "bert": ["BertForMaskedLM"],
    "roberta": ["RobertaForSequenceClassification"],
    "xlm-roberta": ["XLMRobertaForTokenClassification"],
    "distilbert": ["DistilBertForSequenceClassification"],
    "albert": ["AlbertForMaskedLM"],
}
"""Architectures, where the first one of a family has no head."""


def tiny_folder(kind: str, folder: Path, **values: Any) -> Path:
    """Write the folder of a family, with the tokenizer that its kind of model has."""
    family = pretrained.FAMILIES[kind]
    given = _sized(family.fields) | ({"hidden_size": 16} if "dinov3" in kind else {}) | values
    if kind in ARCHITECTURES:
        given.setdefault("architectures", ARCHITECTURES[kind])
    config, sizes = pretrained._checked(
        family, Settings(given, "config.json", family.fields, [str(i) for i in range(99)])
    )
    graph, state = nnx.split(nnx.eval_shape(lambda: family.model(config, *sizes, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    drawn = lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype)  # noqa: E731
    model: Any = nnx.merge(graph, jax.tree.map(drawn, state))
    folder.mkdir(parents=True)
    files.write_tensors(folder, *convert.tensors_of(model, family.table(config, sizes)))
    written = family.write(config, sizes) | {k: v for k, v in SIZES.items() if "token_id" in k}
    files.write_json(folder / "config.json", written | values)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000
    if isinstance(model, ViT | TwoTowers):
        side = {"height": 8, "width": 8}
        files.write_json(folder / "preprocessor_config.json", {"size": side, "resample": 3})
    if isinstance(model, ViT):
        return folder
    if kind == "whisper":
        write_hearing(folder)
    if kind == "marian":
        write_marian(folder)
    else:
        write_tokenizer(kind, folder, isinstance(model, TranslationModel))
    return folder


def _sized(fields: Fields) -> dict[str, Any]:
    """The sizes of a family's fields, also within its objects."""
    given = {name: SIZES[name] for name in fields.followed if name in SIZES}
    parts = {name: _sized(one) for name, (_, one) in fields.parts.items() if "_dict" not in name}
    return given | parts


def tokens_of(kind: str) -> list[str]:
    """The vocabulary of a family, in the order of its ids."""
    special = [*SPECIALS, *MORE.get(kind, []), *LANGUAGES.get(kind, [])]
    return [*special, *WORDS, *PIECES]


def write_tokenizer(kind: str, folder: Path, translates: bool) -> None:
    """Write tokenizer.json: Unigram, with the special tokens of the family around a text."""
    vocabulary = tokens_of(kind)
    one = Tokenizer(models.Unigram([(token, -1.0) for token in vocabulary], unk_id=3))
    one.pre_tokenizer = pre_tokenizers.Metaspace()
    one.decoder = decoders.Metaspace()
    one.add_special_tokens([t for t in vocabulary if t not in [*WORDS, *PIECES]])
    around = ("[CLS]", "[SEP]") if "[CLS]" in vocabulary else None
    around = ("<s>", "</s>") if kind in ("bart", "roberta", "xlm-roberta", *TOWERS) else around
    around = ("", "</s>") if around is None and translates else around
    if kind in LANGUAGES:
        around = (LANGUAGES[kind][0], "</s>")
    if around is not None:
        before, after = around
        between = f"{after} {after}" if before == "<s>" else after
        one.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(),
            pair=f"{before} $A {between} $B:1 {after}:1".strip(),
            special_tokens=[(t, vocabulary.index(t)) for t in around if t],
        )
    one.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def write_hearing(folder: Path) -> None:
    """Write what a Whisper's folder has beside its weights: windows of a second, and its prompt."""
    files.write_json(
        folder / "preprocessor_config.json",
        {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "chunk_length": 1},
    )
    ids = {name: len(SPECIALS) + number for number, name in enumerate(HEARD)}
    described = {
        "lang_to_id": {name: ids[name] for name in HEARD[:2]},
        "task_to_id": {name.strip("<|>"): ids[name] for name in HEARD[2:4]},
        "no_timestamps_token_id": ids[HEARD[4]],
        "is_multilingual": True,
        "task": "transcribe",
        "alignment_heads": [[1, 1], [0, 0]],
        "suppress_tokens": [0, 1, *ids.values()],
        "begin_suppress_tokens": [2],
        "max_new_tokens": 6,
    }
    files.write_json(folder / "generation_config.json", described)


def sound() -> bytes:
    """Return a WAV file of 0.6 s at another rate than the model's."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 8_000, 0, "NONE", ""))
        written.writeframes((9_000 * np.sin(np.arange(5_000) / 9)).astype("<i2").tobytes())
    return file.getvalue()


def write_marian(folder: Path) -> None:
    """Write source.spm, target.spm and vocab.json, whose ids are not those of the first two."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(token, -1.0 - i / 10, 1) for i, token in enumerate([*WORDS, *PIECES])]
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(sentencepiece(pieces))
    vocabulary = {token: i for i, token in enumerate(tokens_of("marian"))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    named = {"source_lang": "en", "target_lang": "ro", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def sentencepiece(pieces: Iterable[tuple[str, float, int]], kind: int = 1) -> bytes:
    """The protocol buffer of a SentencePiece model without a table for its normaliser."""
    written = b""
    for text, score, number in pieces:
        piece = field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([24, number])
        written += field(1, piece)
    return written + field(2, bytes([24, kind])) + field(3, field(1, b"identity"))


def field(number: int, value: bytes) -> bytes:
    """A field of bytes."""
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value
