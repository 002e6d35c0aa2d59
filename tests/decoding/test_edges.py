"""Every way to decode, with few tokens, none, no prompts, and 64-bit types."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import AdditiveConfig, MultiHeadConfig
from attnzoo.config.model import BahdanauConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.data.tokenizers import train_word_tokenizer
from attnzoo.decoding import TokenIds, beam_search, greedy_search
from attnzoo.decoding.generate import beam_generate, generate, stream
from attnzoo.decoding.sampling import Sampling
from attnzoo.errors import UserError
from attnzoo.models import TRANSLATORS
from attnzoo.special_tokens import EOS
from attnzoo.tasks.translation import Translator

V, BLOCK = 11, 3
TABLE = np.random.default_rng(2).normal(size=(V, V)).astype(np.float32)
PROMPTS = np.int32([[3, 4, 5], [7, 1, 9]])
VALID = np.bool_([[True, True, True], [False, True, True]])
NEVER = V + 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
    """The sum of the tokens so far, and how many slots are filled."""

    total: jax.Array
    length: jax.Array


class Unrolled(nnx.Module):
    scan = False


class Adder(nnx.Module):
    """A decoder whose next logits are a row of a table: the sum of all tokens before, modulo V."""

    def __init__(self):
        self.decoder, self.table = Unrolled(), nnx.Param(jnp.asarray(TABLE))

    def start(self, batch: int, max_length: int | None = None) -> Sum:
        return Sum(jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.int32))

    def decode(self, tokens, state, visible=None, *, at=None):
        if visible is not None:
            slots = state.length[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
            seen = jnp.take_along_axis(visible, slots, axis=1, mode="clip")
            tokens = jnp.where(seen, tokens, 0)
        sums = state.total[:, None] + jnp.cumsum(tokens, axis=1, dtype=jnp.int32)
        logits = self.table[...][sums % V]
        if at is not None:
            logits = jnp.take_along_axis(logits, at[:, None, None], axis=1)
        return logits, Sum(sums[:, -1], state.length + tokens.shape[1])


def by_hand(steps: int) -> list[list[int]]:
    """The greedy tokens of each prompt."""
    rows = []
    for prompt in PROMPTS.tolist():
        text = list(prompt)
        for _ in range(steps):
            text.append(int(np.argmax(TABLE[sum(text) % V])))
        rows.append(text[len(prompt) :])
    return rows


def search(function: Callable[..., Any], steps: int, **settings: Any) -> np.ndarray:
    """A search over the states after the prompts; it begins with a token that adds nothing."""
    model = Adder()
    _, state = model.decode(jnp.asarray(PROMPTS), model.start(len(PROMPTS)))

    def step(token, state, memory):
        logits, state = model.decode(token[:, None], state)
        return logits[:, 0], state, jnp.ones((len(token), 1, 1), jnp.float32)

    ids = TokenIds(pad=0, start=0, end=settings.pop("end", NEVER), never=())
    sizes = {"batch": len(PROMPTS), "source_length": 1, "max_length": steps}
    return function(step, state, (), ids=ids, **sizes, **settings).tokens


def pieces(*args: Any, **settings: Any) -> np.ndarray:
    return np.concatenate(list(stream(*args, block=BLOCK, **settings)), axis=2)


KEY = jax.random.key(4)
HOT = Sampling(temperature=0.9, top_k=7, top_p=0.8, min_p=0.05)
GREEDILY: dict[str, Callable[[int], Any]] = {
    "generate": lambda n: generate(Adder(), PROMPTS, max_new_tokens=n).tokens,
    "stream": lambda n: pieces(Adder(), PROMPTS, max_new_tokens=n),
    "beam_generate": lambda n: (
        beam_generate(Adder(), PROMPTS, max_new_tokens=n, eos_id=NEVER, beam=1).tokens
    ),
    "greedy_search": lambda n: search(greedy_search, n),
    "beam_search": lambda n: search(beam_search, n, beam=1),
}
OTHERWISE: dict[str, Callable[[int], Any]] = {
    "ends": lambda n: generate(Adder(), PROMPTS, max_new_tokens=n, eos_id=(2, 8)).lengths,
    "padding": lambda n: generate(Adder(), PROMPTS, valid=VALID, max_new_tokens=n).tokens,
    "samples": lambda n: (
        generate(Adder(), PROMPTS, KEY, max_new_tokens=n, sampling=HOT, samples=3).tokens
    ),
    "samples in pieces": lambda n: pieces(
        Adder(), PROMPTS, KEY, max_new_tokens=n, sampling=HOT, samples=3
    ),
    "repetition": lambda n: (
        generate(
            Adder(), PROMPTS, max_new_tokens=n, sampling=Sampling(repetition_penalty=3.0)
        ).tokens
    ),
    "beams": lambda n: (
        beam_generate(
            Adder(), PROMPTS, valid=VALID, max_new_tokens=n, eos_id=2, beam=3, alpha=0.6
        ).tokens
    ),
    "beams of a search": lambda n: search(beam_search, n, beam=3, end=2),
}


@functools.cache
def five(entry: str) -> np.ndarray:
    """What is found with five tokens."""
    return np.asarray((GREEDILY | OTHERWISE)[entry](5))


@pytest.mark.parametrize(
    ("entry", "steps"),
    [
        *((entry, steps) for entry in GREEDILY for steps in (1, 2, 5)),
        *(("stream", steps) for steps in (BLOCK, 1 + BLOCK)),
    ],
)
def test_any_number_of_tokens(entry: str, steps: int) -> None:
    """One token alone, and where the blocks of a stream end."""
    found = five(entry) if steps == 5 else np.asarray(GREEDILY[entry](steps))
    assert found.shape == (2, 1, steps)
    assert found[:, 0].tolist() == by_hand(steps)


@pytest.mark.parametrize("entry", OTHERWISE)
def test_one_token_is_the_first_of_many(entry: str) -> None:
    one = np.asarray(OTHERWISE[entry](1))
    assert one.shape[-1] == 1
    if "beams" not in entry and entry != "ends":
        np.testing.assert_array_equal(one, five(entry)[..., :1])


@pytest.mark.parametrize("entry", GREEDILY | OTHERWISE)
def test_no_tokens_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^max_(new_tokens|length)=0; wanted at least 1$"):
        (GREEDILY | OTHERWISE)[entry](0)


@pytest.mark.parametrize("entry", GREEDILY | OTHERWISE)
def test_64_bit_types_change_nothing(entry: str) -> None:
    wanted = five(entry)
    with jax.enable_x64(True):
        found = np.asarray((GREEDILY | OTHERWISE)[entry](5))
    assert found.dtype == wanted.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


CALLS: dict[str, Callable[[np.ndarray], Any]] = {
    "generate": lambda prompts: generate(Adder(), prompts, max_new_tokens=2),
    # At the call, before the first piece is asked for.
    "stream": lambda prompts: stream(Adder(), prompts, max_new_tokens=2),
    "beam_generate": lambda prompts: beam_generate(Adder(), prompts, max_new_tokens=2, eos_id=0),
}


@pytest.mark.parametrize("entry", CALLS)
def test_no_prompts_and_empty_prompts_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"prompts have shape \(0, 3\); wanted one prompt"):
        CALLS[entry](PROMPTS[:0])
    with pytest.raises(ValueError, match="prompts have no tokens; wanted one at least"):
        CALLS[entry](PROMPTS[:, :0])


@pytest.mark.parametrize("settings", [{}, {"beam": 3}])
def test_a_search_over_no_sentences_finds_none(settings: dict[str, Any]) -> None:
    def step(token, state, memory):
        return jnp.zeros((0, V)), state, jnp.zeros((0, 1, 1))

    function = beam_search if settings else greedy_search
    found = function(step, (), (), batch=0, source_length=1, max_length=4, **settings)
    assert found.tokens.shape == (0, settings.get("beam", 1), 4)


def test_beams_from_a_prompt_of_one_token() -> None:
    """The last token of a prompt is read by a step: here there is nothing before it."""
    found = beam_generate(Adder(), PROMPTS[:, :1], max_new_tokens=3, eos_id=NEVER, beam=1)
    wanted = generate(Adder(), PROMPTS[:, :1], max_new_tokens=3)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


TOKENIZER = train_word_tokenizer(["a b c d"])
HEADS = MultiHeadConfig(num_heads=2)


def translator(**settings: Any) -> Translator:
    """A translator with 8 positions on either side, which never ends by itself."""
    if settings:
        sizes = {"dim": 8, "hidden": 8, "encoder_layers": 1, "decoder_layers": 1, "max_length": 8}
        attention = {"attention": HEADS, "cross_attention": HEADS}
        config: Any = TransformerConfig(**attention, **sizes, output_bias=True, **settings)
    else:
        config = BahdanauConfig(attention=AdditiveConfig(), hidden=5, embedding=4, maxout=3)
    vocab = TOKENIZER.vocab_size
    model = drawn(lambda: TRANSLATORS[config.kind](config, vocab, vocab, rngs=nnx.Rngs(0)), 5, 0.5)
    bias = model.output_bias if settings else model.output.bias
    bias[...] = jnp.zeros(vocab).at[EOS].set(-100.0)
    return Translator(model, TOKENIZER, TOKENIZER, max_source=8, batch_size=2)


def test_a_translation_is_as_long_as_the_models_positions() -> None:
    learned = translator(positions="learned")
    (found,) = learned.translate(["a b c"], beam=1)
    assert found is not None
    assert len(found.weights) == 8
    (found,) = learned.translate(["a b c"], beam=1, max_length=8)
    assert found is not None
    assert len(found.weights) == 8
    with pytest.raises(UserError, match=r"^max_length=9, but the model has positions for 8 target"):
        learned.translate(["a b c"], max_length=9)
    with pytest.raises(UserError, match=r"^max_length=0; wanted at least 1$"):
        learned.translate(["a b c"], max_length=0)
    # A target of seven words and its end has a position for each; so has one of eight none.
    fits, not_so = learned.force(["a", "a"], ["a " * 7, "a " * 8])
    assert (fits is None, not_so is None) == (False, True)


def test_positions_without_a_table_have_no_end() -> None:
    (found,) = translator(positions="sinusoidal").translate(["a b c"], beam=1, max_length=20)
    assert found is not None
    assert len(found.weights) == 20


@pytest.mark.parametrize("beam", [1, 2])
def test_nothing_to_translate(beam: int) -> None:
    assert translator().translate([], beam=beam) == []


@pytest.mark.parametrize("beam", [1, 2])
def test_64_bit_types_change_no_translation(beam: int) -> None:
    reader = translator()
    (wanted,) = reader.translate(["a b c"], beam=beam, max_length=4)
    with jax.enable_x64(True):
        (found,) = reader.translate(["a b c"], beam=beam, max_length=4)
    assert wanted is not None
    assert found is not None
    assert found.text == wanted.text
    np.testing.assert_allclose(found.weights, wanted.weights, rtol=1e-5)
