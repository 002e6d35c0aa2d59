"""Links and word matrices from small weight matrices whose answers can be read off."""

import numpy as np
import pytest

from attnzoo.alignment.extract import links_from_weights, row_shares, token_matrix, word_matrix

# "I love you" -> "je t' aime", METHODS section 4.7.
TOY = np.array([[0.94, 0.02, 0.04], [0.11, 0.01, 0.88], [0.03, 0.95, 0.02]])
TOY_LINKS = {(0, 0), (2, 1), (1, 2)}

# Four decoder steps (three tokens and EOS) over three source tokens, EOS and one column of padding.
# Source tokens 0 and 1 are the word 0; target tokens 1 and 2 are the word 1.
STEPS = np.array(
    [
        [0.40, 0.30, 0.10, 0.20, 0.0],
        [0.10, 0.20, 0.60, 0.10, 0.0],
        [0.20, 0.10, 0.10, 0.60, 0.0],
        [0.00, 0.00, 0.25, 0.75, 0.0],
    ]
)
SOURCE, TARGET = [0, 0, 1], [0, 1, 1]


def test_toy_matrix_gives_the_articles_alignment():
    assert links_from_weights(TOY, [0, 1, 2], [0, 1, 2]) == TOY_LINKS


def test_eos_row_and_column_are_dropped():
    padded = np.full((5, 6), 0.99)
    padded[:3, :3] = TOY
    assert links_from_weights(padded, [0, 1, 2], [0, 1, 2]) == TOY_LINKS


def test_input_timing_reads_one_row_later():
    shifted = np.vstack([np.array([[0.0, 0.0, 1.0]]), TOY])  # the row of the step that reads BOS
    assert links_from_weights(shifted, [0, 1, 2], [0, 1, 2], timing="input") == TOY_LINKS
    # The same matrix under the other rule is another alignment.
    predicted = links_from_weights(shifted, [0, 1, 2], [0, 1, 2], timing="predicted")
    assert predicted == {(2, 0), (0, 1), (2, 2)}


def test_input_timing_needs_the_row_that_predicts_eos():
    with pytest.raises(ValueError, match="need 4 rows"):
        links_from_weights(TOY, [0, 1, 2], [0, 1, 2], timing="input")


def test_any_linked_pair_of_tokens_links_their_words():
    # Tokens: row 0 -> column 0 (word 0), row 1 -> column 2 (word 1), row 2 -> column 0 (word 0).
    assert links_from_weights(STEPS, SOURCE, TARGET) == {(0, 0), (1, 1), (0, 1)}


def test_word_matrix_sums_sources_and_averages_targets():
    expected = [[0.7, 0.1], [(0.3 + 0.3) / 2, (0.6 + 0.1) / 2]]
    np.testing.assert_allclose(word_matrix(STEPS, SOURCE, TARGET), expected, rtol=1e-12)


def test_word_matrix_with_input_timing():
    expected = [[0.3, 0.6], [(0.3 + 0.0) / 2, (0.1 + 0.25) / 2]]
    matrix = word_matrix(STEPS, SOURCE, TARGET, timing="input")
    np.testing.assert_allclose(matrix, expected, rtol=1e-12)


def test_word_level_gives_every_target_word_one_link():
    assert links_from_weights(STEPS, SOURCE, TARGET, level="word") == {(0, 0), (1, 1)}


def test_threshold_takes_every_cell_that_reaches_it():
    links = links_from_weights(STEPS, SOURCE, TARGET, rule="threshold", threshold=0.3)
    assert links == {(0, 0), (1, 1)}
    links = links_from_weights(STEPS, SOURCE, TARGET, rule="threshold", threshold=0.2)
    assert links == {(0, 0), (0, 1), (1, 1)}


def test_source_rule_gives_every_source_token_one_link():
    # Column 0 is heaviest in row 0, column 1 in row 0, column 2 in row 1.
    assert links_from_weights(STEPS, SOURCE, TARGET, rule="source") == {(0, 0), (1, 1)}


def test_eos_as_null_leaves_a_token_unlinked():
    # Row 2 gives EOS 0.6, more than any word; its link 0-1 goes.
    links = links_from_weights(STEPS, SOURCE, TARGET, eos_is_null=True)
    assert links == {(0, 0), (1, 1)}
    # At word level EOS beats word 1 as well: (0.1 + 0.7) / 2 against (0.6 + 0.1) / 2.
    more = STEPS.copy()
    more[2, 3] = 0.7
    assert links_from_weights(more, SOURCE, TARGET, eos_is_null=True, level="word") == {(0, 0)}


def test_a_row_of_zeros_links_nothing_and_ties_take_the_first():
    weights = np.array([[0.0, 0.0], [0.5, 0.5]])
    assert links_from_weights(weights, [0, 1], [0, 1]) == {(0, 1)}


def test_no_tokens_no_links():
    assert links_from_weights(STEPS, [], TARGET) == set()
    assert links_from_weights(STEPS, SOURCE, []) == set()
    assert word_matrix(STEPS, [], TARGET).shape == (2, 0)


def test_words_without_tokens_have_zero_rows_and_columns():
    matrix = word_matrix(TOY[:2, :2], [0, 2], [0, 2], source_words=4, target_words=5)
    assert matrix.shape == (5, 4)
    assert matrix[1].sum() == matrix[:, 1].sum() == matrix[3:].sum() == matrix[:, 3].sum() == 0
    np.testing.assert_allclose(matrix[[0, 0, 2, 2], [0, 2, 0, 2]], [0.94, 0.02, 0.11, 0.01])


def test_float32_in_and_python_ints_out():
    links = links_from_weights(TOY.astype(np.float32), [0, 1, 2], [0, 1, 2])
    assert {type(index) for link in links for index in link} == {int}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_weights_that_are_no_weights_are_refused(bad):
    weights = TOY.copy()
    weights[1, 1] = bad
    with pytest.raises(ValueError, match="negative, infinite or not a number"):
        token_matrix(weights, 3, 3)


def test_rubbish_beyond_the_sentence_does_not_matter():
    weights = np.full((4, 5), np.nan)
    weights[:3, :3] = TOY
    assert links_from_weights(weights, [0, 1, 2], [0, 1, 2]) == TOY_LINKS


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="3 source tokens"):
        token_matrix(TOY[:, :2], 3, 3)
    with pytest.raises(ValueError, match="eos_is_null"):
        links_from_weights(TOY, [0], [0], rule="source", eos_is_null=True)
    with pytest.raises(ValueError, match="threshold=0"):
        links_from_weights(TOY, [0], [0], rule="threshold", threshold=0.0)
    with pytest.raises(ValueError, match="source_word_ids names word 2"):
        word_matrix(TOY, [0, 1, 2], [0, 1, 2], source_words=2)
    with pytest.raises(ValueError, match="words count from 0"):
        word_matrix(TOY, [0, -1, 2], [0, 1, 2])


def test_rows_are_scaled_to_one_and_zeros_stay():
    shares = row_shares(np.array([[2.0, 6.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(shares, [[0.25, 0.75], [0, 0]])
