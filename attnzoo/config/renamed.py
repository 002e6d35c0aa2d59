"""Former names of config classes: ``GPT2`` is now ``GPT2Config``, and so on."""

import sys
import warnings
from collections.abc import Callable
from typing import Any


def former_names(module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a config module: ``Name`` gives ``NameConfig``, with a warning.

    Raises:
      AttributeError: neither name exists.
    """

    def look_up(name: str) -> Any:
        found = vars(sys.modules[module]).get(f"{name}Config")
        if found is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        message = f"{module}.{name} is now called {name}Config"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return found

    return look_up
