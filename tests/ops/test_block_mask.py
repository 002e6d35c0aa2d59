"""The tiles of a mask: sorted right, drawn right, under jit too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.ops import BlockMask, masks

B, N, T, S = 2, 3, 37, 53
BLOCK = (8, 4)
IDS = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 4, (B, S)), axis=1), jnp.int32)
UNSORTED = jnp.asarray(np.random.default_rng(1).integers(0, 2, (B, S)), jnp.int32)

MASKS = {
    "full": masks.full(),
    "causal": masks.causal(),
    "causal, shifted": masks.causal().offset(S - T),
    "causal, shifted back": masks.causal().offset(jnp.asarray(-10)),
    "window": masks.sliding_window(9),
    "two-sided window": masks.window(None, 3),
    "prefix": masks.prefix_lm(jnp.array([5, 40])),
    "documents": masks.document(IDS) & masks.causal(),
    "documents out of order": masks.document(UNSORTED),
    "padding": masks.padding(jnp.array([S, 30])),
    "padding as an array": masks.padding(jnp.arange(S)[None] % 20 < 9),
    "window and sinks": masks.causal() & (masks.sliding_window(9) | masks.sink_tokens(3)),
    "window and global tokens": masks.symmetric_window(5) | masks.global_tokens(3),
    "not": ~(masks.causal() & masks.sliding_window(12)),
    "dilated": masks.dilated(3) & masks.sliding_window(20),
    "neighbourhood": masks.neighbourhood(8, 1),
    "array": masks.from_array(jnp.asarray(np.random.default_rng(2).random((1, N, T, S)) < 0.05)),
    "broadcast array": masks.Broadcast(jnp.arange(S).reshape(1, 1, 1, S) < 20),
    "per query": masks.Broadcast(jnp.arange(T).reshape(1, 1, T, 1) < 20),
}


def kinds_by_elements(mask, block=BLOCK):
    """ "full", "partial" or "empty" for each tile, read off the whole array in numpy."""
    dense = np.asarray(mask.to_dense(B, N, T, S))
    kinds = np.empty((B, N, -(-T // block[0]), -(-S // block[1])), object)
    for b, n, r, c in np.ndindex(kinds.shape):
        tile = dense[b, n, r * block[0] : (r + 1) * block[0], c * block[1] : (c + 1) * block[1]]
        whole = tile.shape == block
        kinds[b, n, r, c] = "full" if tile.all() and whole else "partial" if tile.any() else "empty"
    return kinds


def kinds_of(block_mask):
    full, partial = (np.asarray(x) for x in block_mask.tiles())
    assert not (full & partial).any()
    kinds = np.where(full, "full", np.where(partial, "partial", "empty"))
    return np.broadcast_to(kinds, (B, N, *kinds.shape[2:]))


@pytest.mark.parametrize("name", MASKS)
def test_every_tile_is_what_its_elements_say(name):
    mask = MASKS[name]
    made = BlockMask.from_mask(mask, B, N, T, S, block_size=BLOCK)
    assert np.array_equal(kinds_of(made), kinds_by_elements(mask))
    assert np.array_equal(made.to_dense(B, N, T, S), mask.to_dense(B, N, T, S))
    joined = made.joined(2, 3)
    assert joined.block_size == (16, 12)
    kinds = kinds_by_elements(mask, (16, 12))
    assert np.array_equal(kinds_of(joined), kinds)
    rows = made.full_count.shape[0] * made.full_count.shape[1]  # one, where all heads have the same
    assert joined.visited() == np.mean(kinds != "empty") * kinds[0, 0].size * rows * 16 * 12


def test_a_plain_function_is_sorted_by_its_elements():
    def stripes(b, n, q, k):
        return (k // 4 + n) % 3 == 0

    made = BlockMask.from_mask(stripes, B, N, T, S, block_size=BLOCK)
    columns = (np.arange(-(-S // 4))[None] + np.arange(N)[:, None]) % 3 == 0
    wanted = np.where(columns[:, None, :], "full", "empty").astype(object)
    wanted = np.broadcast_to(wanted, (B, N, 5, 14)).copy()
    wanted[:, :, :, -1][wanted[:, :, :, -1] == "full"] = "partial"  # 53 = 13 * 4 + 1
    wanted[:, :, -1][wanted[:, :, -1] == "full"] = "partial"  # 37 = 4 * 8 + 5
    assert np.array_equal(kinds_of(made), wanted)
    assert made.full_count.shape == (1, N, 5)  # it does not depend on the batch row


@pytest.mark.parametrize("name", [name for name in MASKS if "not" not in name])
def test_traced_masks_lose_no_tile(name):
    """Every tile with something in it is visited, and none is called full that is not."""
    exact = kinds_by_elements(MASKS[name])

    @jax.jit
    def tiles(mask):
        made = BlockMask.from_mask(mask, B, N, T, S, block_size=BLOCK)
        assert made.is_concrete == (not jax.tree.leaves(mask))
        return made

    kinds = kinds_of(tiles(MASKS[name]))
    assert np.all((exact == "empty") | (kinds != "empty"))
    assert np.all((kinds != "full") | (exact == "full"))
    if name not in ("documents", "documents out of order"):  # the corners of a tile say it all
        assert np.array_equal(kinds, exact)


def test_a_traced_closure_is_sorted_by_its_elements():
    @jax.jit
    def tiles(limit):
        made = BlockMask.from_mask(lambda b, n, q, k: k < limit, B, N, T, S, block_size=BLOCK)
        assert not made.is_concrete
        return made.tiles()

    full, partial = tiles(jnp.asarray(10))
    wanted = kinds_by_elements(masks.padding(jnp.array([10, 10])))[0, 0]
    assert np.array_equal(
        np.where(full, "full", np.where(partial, "partial", "empty"))[0, 0], wanted
    )


def test_picture_and_sparsity():
    made = BlockMask.from_mask(masks.sliding_window(6), 1, 1, 16, 16, block_size=4)
    assert str(made) == (
        "BlockMask(Window(left=5, right=0), 4 x 4 tiles of (1, 1, 16, 16)), 43.8 % skipped\n"
        "▒░░░\n"
        "▒▒░░\n"
        "▒▒▒░\n"
        "░▒▒▒"
    )
    assert made.sparsity() == pytest.approx(7 / 16)
    wide = BlockMask.from_mask(masks.causal(), 1, 1, 12, 12, block_size=4)
    assert wide.draw_tiles() == "▒░░\n█▒░\n██▒"
    assert wide.draw(3, 3) == "█░░\n██░\n███"  # the elements, as any mask draws them

    @jax.jit
    def traced(mask):
        assert str(mask) == repr(mask)  # nothing to draw, and nothing fails
        return mask

    traced(wide)
    assert "<pre" in wide._repr_html_()


def test_it_passes_through_jit_as_a_pytree():
    made = BlockMask.from_mask(masks.document(IDS), B, N, T, S, block_size=BLOCK)
    again = jax.jit(lambda mask: mask)(made)
    assert np.array_equal(kinds_of(again), kinds_of(made))
    assert again.block_size == BLOCK
    assert again.shape == (B, N, T, S)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockMask.from_mask(masks.causal(), 1, 1, 0, 8), "T=0"),
        (
            lambda: BlockMask.from_mask(masks.causal(), 1, 1, 8, 8, block_size=0),
            "block_size=0: wanted one or two positive integers",
        ),
        (
            lambda: BlockMask.from_mask(lambda b, n, q, k: q - k, 1, 1, 8, 8),
            "a mask function returned int32; wanted bool",
        ),
        (
            lambda: BlockMask.from_mask(masks.document(IDS), B, N, 60, S),
            "document: query ids covers 53 positions, but T has 60",
        ),
        (
            lambda: BlockMask.from_mask(masks.causal(), B, N, T, S).check(B, N, T, S + 1),
            "block_mask was made for B N T S = (2, 3, 37, 53), but attention has (2, 3, 37, 54)",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
