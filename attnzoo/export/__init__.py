"""Export of trained models as files that run without their code: StableHLO, safetensors, tokenizer.

``attnzoo.export.write`` writes such a folder from a run. ``attnzoo.export.load`` runs one; it needs
only jax, flatbuffers, numpy and safetensors, and is copied into every folder as ``load.py``.
"""
