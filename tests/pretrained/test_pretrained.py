"""Folders of transformers in and out: strict, byte-equal, nothing but safetensors."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from attnzoo import pretrained
from attnzoo.cli.convert import main as convert_main
from attnzoo.config.attention import LinearConfig, MultiHeadConfig
from attnzoo.config.bert import BertConfig
from attnzoo.errors import UserError
from attnzoo.models.bert import Bert
from attnzoo.pretrained import convert, files

DIM, HIDDEN, VOCAB, LAYERS, LENGTH = 6, 7, 11, 2, 5

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
    "type_vocab_size": 2,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}


def bert_tensors(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """The tensors of a BERT that classifies, written down from their own names."""
    shapes = {
        "embeddings.word_embeddings.weight": (VOCAB, DIM),
        "embeddings.position_embeddings.weight": (LENGTH, DIM),
        "embeddings.token_type_embeddings.weight": (2, DIM),
        "embeddings.LayerNorm.weight": (DIM,),
        "embeddings.LayerNorm.bias": (DIM,),
        "pooler.dense.weight": (DIM, DIM),
        "pooler.dense.bias": (DIM,),
    }
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        for name, out, into in (
            ("attention.self.query", DIM, DIM),
            ("attention.self.key", DIM, DIM),
            ("attention.self.value", DIM, DIM),
            ("attention.output.dense", DIM, DIM),
            ("intermediate.dense", HIDDEN, DIM),
            ("output.dense", DIM, HIDDEN),
        ):
            shapes[f"{layer}.{name}.weight"] = (out, into)
            shapes[f"{layer}.{name}.bias"] = (out,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}.{name}.weight"] = shapes[f"{layer}.{name}.bias"] = (DIM,)
    shapes = {f"bert.{name}": shape for name, shape in shapes.items()}
    shapes |= {"classifier.weight": (3, DIM), "classifier.bias": (3,)}
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "theirs", bert_tensors())


def same_bytes(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


def test_tensors_are_in_their_places(folder: Path) -> None:
    model, tensors = pretrained.load(folder), bert_tensors()
    assert model.config == BertConfig(
        attention=MultiHeadConfig(num_heads=2),
        dim=DIM,
        hidden=HIDDEN,
        layers=LAYERS,
        max_length=LENGTH,
        head="sequence",
        num_classes=3,
    )
    mechanism = model.encoder.blocks[1].attention.mechanism
    query = tensors["bert.encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(mechanism.query.kernel[...], query.T)
    np.testing.assert_array_equal(model.classifier.bias[...], tensors["classifier.bias"])
    assert model(jnp.arange(4, dtype=jnp.int32)[None]).shape == (1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_a_round_trip_changes_no_byte(tmp_path: Path, dtype: Any) -> None:
    tensors = bert_tensors(dtype)
    theirs = write(tmp_path / "theirs", tensors)
    (theirs / "tokenizer.json").write_text("{}")
    assert convert_main([str(theirs), str(tmp_path / "ours")]) == 0
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert "encoder/blocks/1/attention/mechanism/query/kernel" in ours
    assert convert_main([str(tmp_path / "ours"), str(tmp_path / "again")]) == 0
    assert same_bytes(load_file(tmp_path / "again" / "model.safetensors"), tensors)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {key: written[key] for key in CONFIG} == CONFIG
    assert written["dtype"] == np.dtype(dtype).name
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "{}"


def test_convert_does_not_write_over_a_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "model.safetensors").read_bytes()
    assert convert_main([str(folder), str(folder)]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_scanned_model_is_written_layer_by_layer(tmp_path: Path, folder: Path) -> None:
    model = pretrained.load(folder)
    config = dataclasses.replace(model.config, scan=True)
    scanned = nnx.eval_shape(lambda: Bert(config, VOCAB, rngs=nnx.Rngs(0)))
    table = pretrained.FAMILIES["bert"].table(config, (VOCAB,))
    with files.open_tensors(folder) as tensors:
        filled = convert.fill(scanned, table, tensors)
    tokens = jnp.array([[1, 2, 3]], jnp.int32)
    np.testing.assert_allclose(filled(tokens), model(tokens), rtol=1e-5)
    pretrained.save(filled, tmp_path / "again")
    assert same_bytes(load_file(tmp_path / "again" / "model.safetensors"), bert_tensors())


def test_several_files(folder: Path, tmp_path: Path) -> None:
    model = pretrained.load(folder)
    family = pretrained.FAMILIES["bert"]
    table = family.table(model.config, (VOCAB,))
    parts = tmp_path / "parts"
    parts.mkdir()
    files.write_tensors(parts, *convert.tensors_of(model, table), max_file_bytes=400)
    shutil.copyfile(folder / "config.json", parts / "config.json")
    written = sorted(parts.glob("*.safetensors"))
    assert len(written) > 2
    assert all(len(load_file(path)) == 1 or path.stat().st_size < 2000 for path in written)
    together = {k: v for path in written for k, v in load_file(path).items()}
    assert same_bytes(together, bert_tensors())
    again = pretrained.load(parts)
    assert same_bytes(leaves(model), leaves(again))
    written[0].unlink()
    with pytest.raises(UserError, match=rf"{written[0].name}: no such file"):
        pretrained.load(parts)


def leaves(model: nnx.Module) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in convert.parameters(model).items()}


def test_dtype_and_sharding(folder: Path) -> None:
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    asked = []

    def sharding(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding | None:
        asked.append(path)
        columns = jax.sharding.PartitionSpec(None, "model")
        return jax.sharding.NamedSharding(mesh, columns) if len(shape) == 2 else None

    model = pretrained.load(folder, dtype=jnp.bfloat16, sharding=sharding)
    found = convert.parameters(model)
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype(jnp.bfloat16)}
    assert sorted(asked) == sorted(found)
    kernel = model.classifier.kernel[...]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "model")


def test_copies_and_what_means_nothing(tmp_path: Path) -> None:
    tensors = bert_tensors()
    tensors["bert.embeddings.position_ids"] = np.arange(LENGTH)[None]
    for name in [name for name in tensors if "LayerNorm" in name]:
        old = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
        tensors[old] = tensors.pop(name)
    model = pretrained.load(write(tmp_path / "old", tensors))
    assert same_bytes(leaves(model), leaves(pretrained.load(write(tmp_path / "x", bert_tensors()))))


def lm_tensors(**more: np.ndarray) -> dict[str, np.ndarray]:
    tensors = {k: v for k, v in bert_tensors().items() if not k.startswith("classifier")}
    head, ones = "cls.predictions", np.ones(DIM, np.float32)
    tensors[f"{head}.transform.dense.weight"] = np.ones((DIM, DIM), np.float32)
    for name in ("dense.bias", "LayerNorm.weight", "LayerNorm.bias"):
        tensors[f"{head}.transform.{name}"] = ones
    return tensors | {f"{head}.{name}": value for name, value in more.items()}


def test_what_the_model_does_not_compute_with_is_saved_again(tmp_path: Path) -> None:
    """The pooler and the next-sentence head of a masked LM, ids, settings of generation, names."""
    tensors = lm_tensors(bias=np.arange(VOCAB, dtype=np.float32))
    tensors["cls.seq_relationship.weight"] = np.ones((2, DIM), np.float32)
    tensors["cls.seq_relationship.bias"] = np.ones(2, np.float32)
    settings = {
        "architectures": ["BertForPreTraining"],
        "eos_token_id": [3, 4],
        "pad_token_id": 5,
        "problem_type": "single_label_classification",
        "max_length": 20,
    }
    theirs = write(tmp_path / "theirs", tensors, **settings)
    generation = {"eos_token_id": [3, 4], "no_repeat_ngram_size": 3}
    (theirs / "generation_config.json").write_text(json.dumps(generation))
    assert convert_main([str(theirs), str(tmp_path / "ours")]) == 0
    for source in ("theirs", "ours"):
        again = tmp_path / f"from {source}"
        pretrained.save(pretrained.load(tmp_path / source), again)
        assert same_bytes(load_file(again / "model.safetensors"), tensors)
        config = json.loads((again / "config.json").read_text())
        assert {key: config[key] for key in settings} == settings
        assert json.loads((again / "generation_config.json").read_text()) == generation


def test_names_of_classes_are_saved_again(folder: Path, tmp_path: Path) -> None:
    model = pretrained.load(folder)
    for classes, names in (((), CONFIG["id2label"]), ("xyz", {"0": "x", "1": "y", "2": "z"})):
        pretrained.save(model, tmp_path / "again", classes)
        config = json.loads((tmp_path / "again" / "config.json").read_text())
        assert config["id2label"] == names
        assert config["label2id"] == {name: int(i) for i, name in names.items()}


def test_tied_weights_may_stand_twice_if_they_are_equal(tmp_path: Path) -> None:
    bias, words = np.arange(VOCAB, dtype=np.float32), "bert.embeddings.word_embeddings.weight"
    kind = {"architectures": ["BertForMaskedLM"]}
    twice = lm_tensors(bias=bias) | {"cls.predictions.decoder.weight": bert_tensors()[words]}
    first = pretrained.load(write(tmp_path / "twice", twice, **kind))
    renamed = lm_tensors() | {"cls.predictions.decoder.bias": bias}
    second = pretrained.load(write(tmp_path / "renamed", renamed, **kind))
    assert same_bytes(leaves(first), leaves(second))
    np.testing.assert_array_equal(second.output_bias[...], bias)
    twice["cls.predictions.decoder.weight"] = twice["cls.predictions.decoder.weight"] + 1
    with pytest.raises(UserError, match=r"decoder\.weight is not equal to bert\.embeddings"):
        pretrained.load(write(tmp_path / "other", twice, **kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bert.pooler.dense.bias"), "no tensor bert.pooler.dense.bias"),
        (
            lambda t: t.update({"classifier.extra": np.ones(2, np.float32)}),
            "tensor classifier.extra has no place in the model",
        ),
        (
            lambda t: t.update({"classifier.weight": np.ones((DIM, 3), np.float32)}),
            "tensor classifier.weight is F32[6, 3], wanted [3, 6]",
        ),
        (
            lambda t: t.update({"classifier.bias": np.ones(3, np.int32)}),
            "tensor classifier.bias is I32[3], wanted one of F64, F32, F16, BF16",
        ),
        (
            lambda t: t.update({"classifier.bias": np.ones(3)}),
            "tensor classifier.bias is F64[3], wanted 32 bits or fewer",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, change: Any, message: str) -> None:
    tensors = bert_tensors()
    change(tensors)
    with pytest.raises(UserError) as error:
        pretrained.load(write(tmp_path / "theirs", tensors))
    assert message in str(error.value)
    assert str(tmp_path / "theirs") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "xlnet"},
            "config.json: model_type='xlnet' is not supported; wanted bert, roberta",
        ),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not supported; wanted gelu"),
        ({"architectures": ["BertForMultipleChoice"]}, "architectures=['BertForMultipleChoice"),
    ],
)
def test_settings_that_we_have_not(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        pretrained.load(write(tmp_path / "theirs", bert_tensors(), **changes))


def test_more_layers_than_tensors(tmp_path: Path) -> None:
    """Such a model would be built before the first missing tensor is noticed."""
    tensors = bert_tensors()
    with pytest.raises(UserError, match=f"100 layers, but the files have {len(tensors)} tensors"):
        pretrained.load(write(tmp_path / "theirs", tensors, num_hidden_layers=100))


def test_folders_that_are_none(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder, and no name of a model"):
        pretrained.load(tmp_path / "nowhere")
    # The tests run offline.
    with pytest.raises(UserError, match="some/model: no such folder or run, and not"):
        pretrained.load("some/model")
    with pytest.raises(UserError, match=r"config\.json: a file; wanted the folder"):
        pretrained.load(folder / "config.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors; pytorch_model\.bin can run code"):
        pretrained.load(folder)
    (folder / "model.safetensors").write_bytes(b"12345678" * 9)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        pretrained.load(folder)


def test_a_model_that_transformers_has_not(tmp_path: Path, folder: Path) -> None:
    config = dataclasses.replace(
        pretrained.load(folder).config, attention=LinearConfig(num_heads=2)
    )
    model = Bert(config, VOCAB, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="transformers has no BERT with Linear"):
        pretrained.save(model, tmp_path / "linear")
    pretrained.save_own(model, tmp_path / "own")
    again = pretrained.load(tmp_path / "own")
    assert again.config == config
    assert same_bytes(leaves(model), leaves(again))


def test_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        pretrained.tokenizer(folder)
    made = Tokenizer(WordLevel({"[UNK]": 0, "to": 1, "be": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(folder / "tokenizer.json"))
    assert pretrained.tokenizer(folder).encode("to be or").ids == [1, 2, 0]
    Tokenizer(WordLevel({"a": VOCAB}, unk_token="a")).save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"has a token 11, but the vocabulary .* ends at 10"):
        pretrained.tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="damaged tokenizer"):
        pretrained.tokenizer(folder)
