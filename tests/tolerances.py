"""Comparisons whose tolerance grows with what is compared."""

from typing import Any

import numpy as np


def assert_close(got: Any, wanted: Any, tolerance: float, err_msg: str = "") -> None:
    """Raise unless arrays differ by at most ``tolerance`` times the largest entry wanted, or 1.

    What is added up is rounded by units in the last place of its largest terms: an absolute bound
    on a sum of a thousand is one unit on one machine and none on the next.
    """
    wanted = np.asarray(wanted)
    largest = np.max(np.abs(wanted), initial=1, where=np.isfinite(wanted))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * largest, err_msg=err_msg)
