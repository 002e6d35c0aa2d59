"""Typed configs: plain frozen dataclasses, and the loader that fills them from YAML.

Nothing here imports jax: a config is read, checked and explained before the slow imports begin.
"""
