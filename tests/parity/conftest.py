"""A model of transformers with random weights, biases and norms, in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    """Draw every parameter and buffer of theirs anew and write it: norms that start at 1 and
    biases at 0 would hide a missing one.
    """

    def write(model: Any, scale: float = 0.2) -> Path:
        import torch

        torch.set_num_threads(1)  # so small a model only waits for its threads
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                norm = parameter.ndim == 1 and name.endswith("weight")
                parameter.normal_(1.0 if norm else 0.0, scale)
        model.eval().save_pretrained(tmp_path)
        return tmp_path

    return write


@pytest.fixture
def close() -> Callable[[Any, Any], None]:
    """Ours and theirs (torch) agree to 1e-5 of what is largest, or of 1."""

    def check(ours: Any, theirs: Any) -> None:
        wanted = theirs.detach().numpy()
        largest = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(np.asarray(ours), wanted, rtol=0, atol=1e-5 * largest)

    return check
