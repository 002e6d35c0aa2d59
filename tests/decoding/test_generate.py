"""The compiled loop beside a loop in Python over whole sequences: every attention and cache."""

import dataclasses
import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.attention import attention_class
from attnzoo.config import attention as kinds
from attnzoo.config import gpt2
from attnzoo.config.llama import LlamaConfig
from attnzoo.decoding import generate as module
from attnzoo.decoding.generate import beam_generate, generate, stream
from attnzoo.decoding.sampling import Sampling
from attnzoo.models.gpt2 import GPT2
from attnzoo.models.llama import Llama

V, ROOM = 13, 17
SETTINGS: dict[str, Any] = {
    "latent": kinds.LatentConfig(num_heads=2, latent_dim=5, rotary_dim=2, head_dim=3),
    "positional": kinds.PositionalConfig(max_length=ROOM),
    "factorised_positional": kinds.FactorisedPositionalConfig(max_length=ROOM, rank=3),
    "synthesizer": kinds.SynthesizerConfig(max_length=ROOM),
    "gated_linear": kinds.GatedLinearConfig(num_heads=3),
    "retnet": kinds.RetNetConfig(num_heads=3),
    "native_sparse": kinds.NativeSparseConfig(num_heads=2, block=2, selected=3, window=2),
    "multi_head": kinds.MultiHeadConfig(num_heads=3),
}
KINDS = {
    cls.kind: cls
    for cls in get_args(get_args(kinds.SelfAttention)[0])
    if attention_class(cls()).takes_causal_mask
}
PROMPTS = np.random.default_rng(3).integers(0, V, (3, 5)).astype(np.int32)
LENGTHS = [5, 2, 4]
STEPS = 6


def make(attention: Any, *, layers: int = 2, scan: bool = False) -> GPT2:
    sizes = {"attention": attention, "dim": 12, "hidden": 7, "layers": layers, "max_length": ROOM}
    config = gpt2.GPT2Config(**sizes, tied=False, scan=scan)
    return drawn(lambda: GPT2(config, V, rngs=nnx.Rngs(0)), 7, 0.5)


def by_hand(model: Any) -> list[list[int]]:
    """Greedy tokens of each prompt alone, the whole sequence read anew at every step."""
    graph, params = nnx.split(model)
    # One program: what stands behind a position does not matter to it.
    whole = jax.jit(lambda params, ids: nnx.merge(graph, params)(ids))
    rows = []
    for prompt, length in zip(PROMPTS, LENGTHS, strict=True):
        ids = np.zeros((1, 5 + STEPS), np.int32)
        ids[0, :length] = prompt[:length]
        for at in range(length, length + STEPS):
            ids[0, at] = int(jnp.argmax(whole(params, ids)[0, at - 1]))
        rows.append(ids[0, length : length + STEPS].tolist())
    return rows


def padded(side: str) -> tuple[np.ndarray, np.ndarray]:
    """The prompts cut to their lengths, with other tokens as padding."""
    ids, valid = np.full((3, 5), 7, np.int32), np.zeros((3, 5), bool)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(5 - length, 5)
        ids[row, place], valid[row, place] = PROMPTS[row, :length], True
    return ids, valid


@pytest.fixture(scope="module")
def model() -> GPT2:
    return make(SETTINGS["multi_head"])


@pytest.mark.parametrize("kind", KINDS)
def test_padded_prompts_continue_as_each_alone(kind: str) -> None:
    model = make(SETTINGS.get(kind) or KINDS[kind](), layers=1)
    ids, valid = padded("left")
    found = generate(model, ids, valid=valid, max_new_tokens=STEPS)
    assert found.tokens.shape == (3, 1, STEPS)
    assert found.tokens[:, 0].tolist() == by_hand(model)
    assert (found.lengths == STEPS).all()


def test_padding_on_the_right_and_scanned_layers(model: GPT2) -> None:
    ids, valid = padded("right")
    wanted = by_hand(model)
    assert generate(model, ids, valid=valid, max_new_tokens=STEPS).tokens[:, 0].tolist() == wanted
    scanned = make(SETTINGS["multi_head"], scan=True)
    layers = nnx.to_pure_dict(nnx.state(model))
    blocks = layers["decoder"]["blocks"].values()
    layers["decoder"]["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
    nnx.update(scanned, layers)
    found = generate(scanned, ids, valid=valid, max_new_tokens=STEPS)
    assert found.tokens[:, 0].tolist() == wanted


@pytest.mark.parametrize(
    ("cache", "global_layers", "slots"),
    [("plain", None, [ROOM, ROOM]), ("window", None, [3, 3]), ("window", (1,), [3, ROOM])],
)
def test_caches_of_a_decoder_with_a_window(
    cache: str, global_layers: tuple[int, ...] | None, slots: list[int]
) -> None:
    heads = kinds.MultiHeadConfig(num_heads=4, num_kv_heads=2, head_dim=4, window=3)
    config = LlamaConfig(attention=heads, dim=12, hidden=7, layers=2, max_length=ROOM)
    config = dataclasses.replace(config, global_layers=global_layers)
    model = Llama(config, V, rngs=nnx.Rngs(1))
    kept = [block.own.slots for block in model.start(3, ROOM, cache=cache).caches]
    assert kept == slots
    ids, valid = padded("left")
    found = generate(model, ids, valid=valid, max_new_tokens=STEPS, cache=cache)
    assert found.tokens[:, 0].tolist() == by_hand(model)


def test_logits_over_an_int8_cache_are_near(model: GPT2) -> None:
    graph, params = nnx.split(model)

    @functools.partial(jax.jit, static_argnums=0)
    def last(cache: str, params: Any, ids: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        _, state = model.decode(ids[:, :4], model.start(3, 5, cache=cache))
        return model.decode(ids[:, 4:], state)[0]

    found = [last(cache, params, jnp.asarray(PROMPTS)) for cache in ("plain", "int8")]
    # 0.4 % of each head's largest number, through two layers.
    worst = float(jnp.max(jnp.abs(found[1] - found[0])) / jnp.max(jnp.abs(found[0])))
    assert 0 < worst < 0.02
    tokens = generate(model, PROMPTS, max_new_tokens=STEPS, cache="int8").tokens
    assert tokens.shape == (3, 1, STEPS)


def test_a_row_stops_at_its_end_and_the_loop_with_the_last(model: GPT2) -> None:
    free = generate(model, PROMPTS, max_new_tokens=STEPS).tokens[:, 0].tolist()
    eos = free[0][2]
    found = generate(model, PROMPTS, max_new_tokens=STEPS, eos_id=(eos, V + 1), pad_id=99)
    for row, tokens in enumerate(free):
        length = tokens.index(eos) + 1 if eos in tokens else STEPS
        assert found.lengths[row, 0] == length
        assert found.tokens[row, 0].tolist() == tokens[:length] + [99] * (STEPS - length)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_a_stream_has_the_tokens_of_the_whole(model: GPT2, block: int) -> None:
    wanted = generate(model, PROMPTS, max_new_tokens=STEPS).tokens
    pieces = list(stream(model, PROMPTS, max_new_tokens=STEPS, block=block))
    assert pieces[0].shape == (3, 1, 1)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), wanted)


def test_a_stream_ends_when_all_rows_have(model: GPT2) -> None:
    free = generate(model, PROMPTS[:1], max_new_tokens=STEPS).tokens[0, 0].tolist()
    pieces = list(stream(model, PROMPTS[:1], max_new_tokens=STEPS, block=2, eos_id=free[0]))
    assert [piece.tolist() for piece in pieces] == [[[free[:1]]]]


def test_samples_are_drawn_from_one_reading_of_the_prompt(model: GPT2) -> None:
    hot = Sampling(temperature=1.3, top_k=6)

    def draw(seed: int) -> Any:
        key = jax.random.key(seed)
        return generate(model, PROMPTS, key, max_new_tokens=STEPS, sampling=hot, samples=4).tokens

    first = draw(0)
    assert first.shape == (3, 4, STEPS)
    np.testing.assert_array_equal(first, draw(0))
    assert (first != draw(1)).any()
    assert all(len({tuple(sample) for sample in row.tolist()}) > 1 for row in first)
    pieces = stream(
        model, PROMPTS, jax.random.key(0), max_new_tokens=STEPS, block=3, sampling=hot, samples=4
    )
    np.testing.assert_array_equal(np.concatenate(list(pieces), axis=2), first)


def test_a_repetition_penalty_counts_prompt_and_text_but_not_padding(model: GPT2) -> None:
    strict = Sampling(repetition_penalty=3.0)
    ids, valid = padded("left")
    found = generate(model, ids, valid=valid, max_new_tokens=STEPS, sampling=strict)
    logits_of = jax.jit(lambda tokens, at: model(tokens)[0, at])
    for row, length in enumerate(LENGTHS):
        text = PROMPTS[row, :length].tolist()
        for token in found.tokens[row, 0].tolist():
            whole = jnp.int32([text + [0] * (PROMPTS.shape[1] + STEPS - len(text))])
            logits = np.array(logits_of(whole, len(text) - 1))
            for old in set(text):
                logits[old] *= 3.0 if logits[old] < 0 else 1 / 3.0
            assert token == np.argmax(logits)
            text.append(token)


def test_one_program_serves_all_numbers(model: GPT2) -> None:
    before = module._all._cache_size()
    for heat in (0.7, 1.1):
        settings = Sampling(temperature=heat)
        generate(model, PROMPTS, jax.random.key(0), max_new_tokens=3, sampling=settings)
    assert module._all._cache_size() == before + 1


def test_the_best_of_a_beam_is_the_best_of_all(model: GPT2) -> None:
    # Every continuation by two tokens, and those that end at once, scored by hand.
    eos, prompt = 4, PROMPTS[:1, :3]
    graph, params = nnx.split(model)
    score = jax.jit(lambda params, ids: jax.nn.log_softmax(nnx.merge(graph, params)(ids)))
    log_probs = score(
        params, jnp.concatenate([jnp.tile(prompt, (V, 1)), jnp.arange(V)[:, None]], 1)
    )
    first, second = np.asarray(log_probs[0, 2]), np.asarray(log_probs[:, 3])
    both = first[:, None] + second
    both[eos] = -np.inf
    ended = [((eos,), first[eos])] + [((a, eos), both[a, eos]) for a in range(V) if a != eos]
    best = max(ended, key=lambda one: one[1])
    found = beam_generate(model, prompt, max_new_tokens=2, eos_id=eos, beam=V, alpha=0.0)
    assert found.tokens[0, 0, : found.lengths[0, 0]].tolist() == list(best[0])
    np.testing.assert_allclose(found.log_probs[0, 0], best[1], rtol=1e-5)


def test_a_beam_of_one_is_greedy_padded_or_not(model: GPT2) -> None:
    ids, valid = padded("left")
    wanted = generate(model, ids, valid=valid, max_new_tokens=STEPS).tokens
    never = V + 5  # no token: nothing ends
    found = beam_generate(model, ids, valid=valid, max_new_tokens=STEPS, eos_id=never, beam=1)
    np.testing.assert_array_equal(found.tokens, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0; wanted at least 1"),
        ({"samples": 0}, "samples=0; wanted at least 1"),
        ({"max_new_tokens": 14}, "18 positions, but max_length=17"),
        ({"sampling": Sampling(temperature=1.0)}, "key is None"),
        ({"sampling": Sampling(top_k=-1)}, "top_k=-1"),
        ({"valid": np.zeros((3, 5), bool)}, "prompt 0 is all padding"),
        ({"cache": "window"}, "looks back at all"),
    ],
)
def test_what_does_not_fit_is_refused(model: GPT2, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, PROMPTS, **{"max_new_tokens": 2} | change)
    with pytest.raises(ValueError, match="prompts have no tokens"):
        generate(model, PROMPTS[:, :0], max_new_tokens=2)
