"""A JAX/Flax model zoo of attention-based architectures, with the attention weights in view."""

__version__ = "0.1.0"
