"""BART and Marian beside those of transformers: layer by layer, and what greedy search says."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from attnzoo import pretrained
from attnzoo.decoding import TokenIds, greedy_search
from attnzoo.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

B, S, T, D, F, V = 3, 11, 5, 12, 17, 31
PAD = {"bart": 1, "marian": V - 1}
START = {"bart": 2, "marian": V - 1}

VARIANTS = {
    "bart": {},
    "bart, scaled": {"scale_embedding": True, "activation_function": "relu"},
    "bart, other heads": {"decoder_attention_heads": 2, "decoder_layers": 3},
    "marian": {"scale_embedding": True, "activation_function": "swish"},
    "marian, two vocabularies": {
        "share_encoder_decoder_embeddings": False,
        "decoder_vocab_size": V,
        "vocab_size": V + 4,
        "tie_word_embeddings": True,
    },
}


def model(variant: str) -> tuple[str, Any]:
    kind = variant.split(",")[0]
    settings = {
        "vocab_size": V,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "pad_token_id": PAD[kind],
        "decoder_start_token_id": START[kind],
        "forced_eos_token_id": None,
    } | VARIANTS[variant]
    config, cls = {
        "bart": (transformers.BartConfig, transformers.BartForConditionalGeneration),
        "marian": (transformers.MarianConfig, transformers.MarianMTModel),
    }[kind]
    made = cls(
        config(
            d_model=D,
            encoder_ffn_dim=F,
            decoder_ffn_dim=F,
            max_position_embeddings=70,
            attn_implementation="eager",
            **settings,
        )
    )
    torch.manual_seed(3)
    made.final_logits_bias.normal_()
    return kind, made


def batch(kind: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    source = random.integers(3, V - 1, (B, S)).astype(np.int32)
    source[1, 4:] = PAD[kind]
    target = random.integers(3, V - 1, (B, T)).astype(np.int32)
    target[:, 0] = START[kind]
    return source, target


def drawn(variant: str, written, scale: float = 0.2):
    """Theirs and ours; the sines and cosines of Marian are parameters of theirs, and stay."""
    kind, theirs = model(variant)
    kept = {n: p.clone() for n, p in theirs.named_parameters() if "embed_positions" in n}
    folder = written(theirs, scale)
    if kind == "marian":
        with torch.no_grad():
            for name, value in kept.items():
                theirs.get_parameter(name).copy_(value)
        theirs.save_pretrained(folder)
    return kind, theirs, folder


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_layer(variant: str, written, close) -> None:
    kind, theirs, folder = drawn(variant, written)
    ours = pretrained.load(folder)
    source, target = batch(kind)
    with torch.no_grad():
        wanted = theirs(
            torch.from_numpy(source).long(),
            attention_mask=torch.from_numpy(source != PAD[kind]).long(),
            decoder_input_ids=torch.from_numpy(target).long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    logits, maps, source_states, target_states = layers(ours, source, target)
    close(logits, wanted.logits)
    for found, theirs in ((source_states, "encoder"), (target_states, "decoder")):
        for x, state in zip(found, wanted[f"{theirs}_hidden_states"], strict=True):
            close(x, state)
    # Padding has a position too, another one in either library: what it reads concerns no output.
    rows = (source != PAD[kind])[:, None, :, None].astype(np.float32)
    for i in range(ours.config.encoder_layers):
        found = np.asarray(maps[f"encoder/{i}/self"]) * rows
        close(found, wanted.encoder_attentions[i] * torch.from_numpy(rows))
    for i in range(ours.config.decoder_layers):
        close(maps[f"decoder/{i}/self"], wanted.decoder_attentions[i])
        close(maps[f"decoder/{i}/cross"], wanted.cross_attentions[i])


@nnx.jit
def layers(ours, source, target):
    """Logits, maps, and the states before and after every block, as one program."""
    logits, maps = ours(source, target, capture=True)
    valid = source != ours.config.pad_id
    places = jnp.arange(S, dtype=jnp.int32)[None]
    source_states = [ours._embed(source, places, "source", None)]
    for block in ours.encoder.blocks:
        source_states.append(block(source_states[-1], valid=valid)[0])
    target_states = [ours._embed(target, places[:, :T], "target", None)]
    read = {"encoded": source_states[-1], "encoded_valid": valid}
    for block in ours.decoder.blocks:
        target_states.append(block(target_states[-1], **read)[0])
    return logits, maps, source_states, target_states


@pytest.mark.parametrize("variant", ["bart", "marian"])
@pytest.mark.parametrize("end", [None, 7])
def test_greedy_search_says_the_same(variant: str, end: int | None, written) -> None:
    kind, theirs, folder = drawn(variant, written, 0.5)
    ours = pretrained.load(folder)
    assert (ours.config.pad_id, ours.config.start_id) == (PAD[kind], START[kind])
    source, length = batch(kind)[0], 64
    said = theirs.generate(
        torch.from_numpy(source).long(),
        attention_mask=torch.from_numpy(source != PAD[kind]).long(),
        max_new_tokens=length,
        do_sample=False,
        num_beams=1,
        eos_token_id=end,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack(said.logits, dim=1).log_softmax(-1).numpy()
    wanted = said.sequences[:, 1:].numpy()
    ids = TokenIds(PAD[kind], START[kind], -1 if end is None else end, never=())
    sizes = {"batch": B, "source_length": S, "max_length": length}
    search = jax.jit(functools.partial(greedy_search, ours.step, **sizes, ids=ids))
    memory, state = ours.start(jnp.asarray(source), max_length=length)
    hypotheses = search(state, memory)
    found = hypotheses.tokens[:, 0]
    np.testing.assert_array_equal(found[:, : wanted.shape[1]], wanted)
    assert (found[:, wanted.shape[1] :] == PAD[kind]).all()
    # A random model says one token again and again: only its probability tells the positions apart.
    each = np.take_along_axis(logits, wanted[..., None], axis=2)[..., 0]
    read = np.arange(wanted.shape[1])[None] < np.asarray(hypotheses.lengths)
    np.testing.assert_allclose(hypotheses.log_probs[:, 0], (each * read).sum(1), rtol=1e-5)
    assert end is not None or wanted.shape[1] == length


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_transformers_loads_what_we_save(variant: str, written, tmp_path) -> None:
    _, theirs, folder = drawn(variant, written)
    pretrained.save(pretrained.load(folder), tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    first = load_file(folder / "model.safetensors")
    second = load_file(tmp_path / "ours" / "model.safetensors")
    static = {name for name in first if "embed_positions" in name and name not in second}
    assert first.keys() - static == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in second)
    assert not static or "marian" in variant


def test_a_marian_with_positions_of_its_own_is_refused(written) -> None:
    _, theirs = model("marian")
    folder = written(theirs)
    stored = load_file(folder / "model.safetensors")
    name = "model.decoder.embed_positions.weight"
    stored[name] = theirs.get_parameter(name).detach().numpy()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"tensor {name} is not what it is computed as"):
        pretrained.load(folder)
