"""Implementations of attention, one file each; ``attnzoo.ops.choice`` picks among them.

All have one signature: ``attend(q, k, v, settings, dropout_rate, dropout_key)`` returns the output
``B T N Hv`` in q's dtype and the log-sum-exp ``B N T`` in float32 (float64 in float64).
"""

import contextlib
import contextvars
from collections.abc import Generator

_interpreting = contextvars.ContextVar("interpreting", default=False)


@contextlib.contextmanager
def interpret() -> Generator[None]:
    """Interpret Pallas kernels traced inside the context: slowly, on any device, for tests."""
    token = _interpreting.set(True)
    try:
        yield
    finally:
        _interpreting.reset(token)


def interpreting() -> bool:
    """Return True if Pallas kernels are to be interpreted."""
    return _interpreting.get()
