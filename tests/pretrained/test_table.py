"""Forms lay ours out as theirs and back; a row stands for every layer."""

import numpy as np
import pytest

from attnzoo.pretrained.table import SAME, TRANSPOSED, Fused, Reordered, Row, Table, linear, norm


def test_a_linear_keeps_out_by_in() -> None:
    theirs = np.array([[1, 2, 3], [4, 5, 6]])
    assert TRANSPOSED.shape([(3, 2)]) == (2, 3)
    (ours,) = TRANSPOSED.ours(theirs, [(3, 2)])
    np.testing.assert_array_equal(ours, [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(TRANSPOSED.theirs([ours]), theirs)


def test_fused_in_by_out() -> None:
    """GPT-2: q | k | v along the columns."""
    theirs = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    shapes = [(2, 1), (2, 1), (2, 2)]
    form = Fused(axis=1)
    assert form.shape(shapes) == (2, 4)
    q, k, v = form.ours(theirs, shapes)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([[1], [5]], [[2], [6]], [[3, 4], [7, 8]])
    np.testing.assert_array_equal(form.theirs([q, k, v]), theirs)


def test_fused_out_by_in() -> None:
    """One linear layer for two: rows of theirs are columns of ours."""
    theirs = np.array([[1, 2], [3, 4], [5, 6]])
    form = Fused(transposed=True)
    assert form.shape([(2, 1), (2, 2)]) == (3, 2)
    gate, up = form.ours(theirs, [(2, 1), (2, 2)])
    assert (gate.tolist(), up.tolist()) == ([[1], [2]], [[3, 5], [4, 6]])
    np.testing.assert_array_equal(form.theirs([gate, up]), theirs)


def test_a_convolution_over_patches() -> None:
    D, C, P = 3, 2, 2
    theirs = np.arange(D * C * P * P).reshape(D, C, P, P)
    form = Reordered((D, C, P, P), (2, 3, 1, 0))
    (ours,) = form.ours(theirs, [(P * P * C, D)])
    # Row (y P + x) C + c of ours is channel c at place y, x.
    assert ours[(1 * P + 0) * C + 1].tolist() == theirs[:, 1, 1, 0].tolist()
    np.testing.assert_array_equal(form.theirs([ours]), theirs)
    with pytest.raises(ValueError, match="no reshape"):
        form.shape([(5, 7)])


def test_a_row_stands_for_every_layer() -> None:
    table = Table([Row("a.{layer}.w", ("b/{layer}/w",)), Row("c", ("d",))], {"layer": 2})
    expanded = [[(i, one.theirs, one.ours) for i, _, one in table.expanded(r)] for r in table.rows]
    assert expanded == [
        [(0, "a.0.w", ("b/0/w",)), (1, "a.1.w", ("b/1/w",))],
        [(None, "c", ("d",))],
    ]


def test_rows_of_layers() -> None:
    assert linear("a", "b", bias=False) == [Row("a.weight", ("b/kernel",), TRANSPOSED)]
    assert linear("a", "q", "k")[1] == Row("a.bias", ("q/bias", "k/bias"), SAME)
    assert [(r.theirs, r.ours) for r in norm("n", "m")] == [
        ("n.weight", ("m/scale",)),
        ("n.bias", ("m/bias",)),
    ]
