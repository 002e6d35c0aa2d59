"""A trained model as files that run without its code: StableHLO, safetensors, its tokenizer.

``attnzoo.export.write`` makes such a folder of a run. ``attnzoo.export.load`` runs one; it needs
jax, numpy and safetensors, nothing of this package, and lies in every folder as ``load.py``.
"""
