"""BERT beside that of transformers: every head, layer by layer, weights carried by the table."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from attnzoo import pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

B, T, D, F, V, CLASSES = 3, 7, 12, 17, 31, 5

HEADS = {
    "none": "BertModel",
    "lm": "BertForMaskedLM",
    "sequence": "BertForSequenceClassification",
    "token": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}


def bert(head: str, **settings: Any):
    config = transformers.BertConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=11,
        num_labels=2 if head == "span" else CLASSES,
        attn_implementation="eager",
        **settings,
    )
    return getattr(transformers, HEADS[head])(config)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    tokens = random.integers(0, V, (B, T)).astype(np.int32)
    segments = (np.arange(T) >= 4)[None].repeat(B, 0).astype(np.int32)
    valid = np.arange(T)[None] < np.array([[7], [3], [5]])
    return tokens, segments, valid


@pytest.mark.parametrize("head", list(HEADS))
def test_every_head_and_layer(head: str, written, close) -> None:
    theirs = bert(head)
    ours = pretrained.load(written(theirs))
    tokens, segments, valid = batch()
    with torch.no_grad():
        wanted = theirs(
            torch.from_numpy(tokens).long(),
            token_type_ids=torch.from_numpy(segments).long(),
            attention_mask=torch.from_numpy(valid).long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    said, maps, states, pooled = layers(ours, tokens, segments, valid)
    close(said, torch.stack(wanted[:2], dim=-1) if head == "span" else wanted[0])
    for x, state in zip(states, wanted.hidden_states, strict=True):
        close(x, state)
    for i in range(ours.config.layers):
        close(maps[f"encoder/{i}/self"], wanted.attentions[i])
    if head == "none":
        close(pooled, wanted.pooler_output)


@nnx.jit
def layers(ours, tokens, segments, valid):
    """What is said, maps, the states before and after every block, and the pooled one."""
    # Theirs counts padding too.
    places = jnp.arange(T, dtype=jnp.int32)[None].repeat(B, axis=0)
    given = {"segments": segments, "valid": valid, "positions": places}
    said, maps = ours(tokens, **given, capture=True)
    states = [ours.embed(tokens, segments=segments)]
    for block in ours.encoder.blocks:
        states.append(block(states[-1], valid=valid)[0])
    return said, maps, states, None if ours.pooler is None else ours.pool(states[-1])


@pytest.mark.parametrize(
    "settings",
    [{"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}],
    ids=str,
)
def test_settings(settings: dict, written, close) -> None:
    theirs = bert("lm", **settings)
    ours = pretrained.load(written(theirs))
    tokens = batch()[0]
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens).long()).logits
    close(ours(jnp.asarray(tokens)), wanted)


@pytest.mark.parametrize("head", list(HEADS))
def test_transformers_loads_what_we_save(head: str, written, tmp_path) -> None:
    theirs = bert(head)
    folder = written(theirs)
    pretrained.save(pretrained.load(folder), tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    if head != "lm":  # whose bias transformers stores twice
        first = load_file(folder / "model.safetensors")
        second = load_file(tmp_path / "ours" / "model.safetensors")
        assert first.keys() == second.keys()
        assert all(first[name].tobytes() == second[name].tobytes() for name in first)
