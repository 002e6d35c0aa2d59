"""T5 of both versions beside that of transformers: layer by layer, and what greedy search says."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from attnzoo import pretrained
from attnzoo.decoding import TokenIds, greedy_search

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

B, S, T, D, H, F, V = 3, 11, 5, 12, 5, 17, 31

VARIANTS = {
    "1.0": {},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gated-silu": {"feed_forward_proj": "gated-silu", "num_decoder_layers": 3},
    "dense_act_fn": {"dense_act_fn": "silu", "tie_word_embeddings": None},
}


def t5(variant: str, **more: Any):
    settings = {"num_layers": 2, "relative_attention_max_distance": 9} | VARIANTS[variant] | more
    config = transformers.T5Config(
        vocab_size=V,
        d_model=D,
        d_kv=H,
        d_ff=F,
        num_heads=3,
        relative_attention_num_buckets=8,
        decoder_start_token_id=0,
        attn_implementation="eager",
        **settings,
    )
    model = transformers.T5ForConditionalGeneration(config)
    if variant == "1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, D))
    return model


def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    source = random.integers(1, V, (B, S)).astype(np.int32)
    source[1, 4:] = 0
    target = random.integers(1, V, (B, T)).astype(np.int32)
    target[:, 0] = 0
    return source, target


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_layer(variant: str, written, close) -> None:
    theirs = t5(variant)
    ours = pretrained.load(written(theirs))
    source, target = batch()
    with torch.no_grad():
        wanted = theirs(
            torch.from_numpy(source).long(),
            attention_mask=torch.from_numpy(source != 0).long(),
            decoder_input_ids=torch.from_numpy(target).long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    logits, maps, source_states, target_states = layers(ours, source, target)
    close(logits, wanted.logits)
    for found, theirs in ((source_states, "encoder"), (target_states, "decoder")):
        for x, state in zip(found, wanted[f"{theirs}_hidden_states"], strict=True):
            close(x, state)
    for i in range(ours.config.encoder_layers):
        close(maps[f"encoder/{i}/self"], wanted.encoder_attentions[i])
    for i in range(ours.config.decoder_layers):
        close(maps[f"decoder/{i}/self"], wanted.decoder_attentions[i])
        close(maps[f"decoder/{i}/cross"], wanted.cross_attentions[i])


@nnx.jit
def layers(ours, source, target):
    """Logits, maps, and the states before every block and after the last norm, as one program."""
    logits, maps = ours(source, target, capture=True)
    valid = source != 0
    source_states = [ours.tokens(source)]
    for block in ours.encoder.blocks:
        x, _ = block(source_states[-1], valid=valid, score_mod=ours.encoder_bias)
        source_states.append(x)
    source_states[-1] = ours.encoder_norm(x)
    target_states = [ours.tokens(target)]
    read = {"encoded": source_states[-1], "encoded_valid": valid}
    for block in ours.decoder.blocks:
        x, _ = block(target_states[-1], score_mod=ours.decoder_bias, **read)
        target_states.append(x)
    target_states[-1] = ours.decoder_norm(x)
    return logits, maps, source_states, target_states


@pytest.mark.parametrize("variant", ["1.0", "1.1"])
@pytest.mark.parametrize("end", [None, 7])
def test_greedy_search_says_the_same(variant: str, end: int | None, written) -> None:
    theirs = t5(variant)
    ours = pretrained.load(written(theirs, 0.5))
    source, length = batch()[0], 64
    wanted = theirs.generate(
        torch.from_numpy(source).long(),
        attention_mask=torch.from_numpy(source != 0).long(),
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
    )[:, 1:].numpy()
    ids = TokenIds(pad=0, start=0, end=-1 if end is None else end, never=())
    sizes = {"batch": B, "source_length": S, "max_length": length}
    search = jax.jit(functools.partial(greedy_search, ours.step, **sizes, ids=ids))
    memory, state = ours.start(jnp.asarray(source), max_length=length)
    found = search(state, memory).tokens[:, 0]
    np.testing.assert_array_equal(found[:, : wanted.shape[1]], wanted)
    assert (found[:, wanted.shape[1] :] == 0).all()
    # Not one token again and again, which would hide a wrong position.
    assert len(np.unique(wanted)) > 5
    assert end is not None or wanted.shape[1] == length


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_transformers_loads_what_we_save(variant: str, written, tmp_path) -> None:
    theirs = t5(variant)
    folder = written(theirs)
    pretrained.save(pretrained.load(folder), tmp_path / "ours")
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.config.scale_decoder_outputs == theirs.config.scale_decoder_outputs
    first = load_file(folder / "model.safetensors")
    second = load_file(tmp_path / "ours" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
