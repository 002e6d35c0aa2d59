"""Every fault of ``faulty_attention`` is seen by the property that this file names, and no other."""

import copy
from typing import Any

import faulty_attention
import jax.numpy as jnp
import numpy as np
import pytest
from faulty_attention import Attention
from flax import nnx

from attnzoo import attention, testing
from attnzoo.testing import ContractError, ModuleSizes, check

SIZES = ModuleSizes(B=2, T=5, S=7, D=6, D2=6, Dv=6)

# Property -> faults that it is the first to see.
SEEN_BY: dict[str, list[str]] = {}
