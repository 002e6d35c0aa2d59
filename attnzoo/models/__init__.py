"""Architectures, one per file; their configs are in ``attnzoo.config.model``."""

from typing import Any

from attnzoo.config.external import import_class, is_external
from attnzoo.models.aligner import WordAligner
from attnzoo.models.bert import Bert
from attnzoo.models.bidaf import Bidaf
from attnzoo.models.decomposable import DecomposableClassifier
from attnzoo.models.detr import Detr
from attnzoo.models.gpt2 import GPT2
from attnzoo.models.image_sources import ImageConvolution, ImageResNet, ImageViT
from attnzoo.models.llama import Llama
from attnzoo.models.memory_network import MemoryNetwork
from attnzoo.models.model import Model
from attnzoo.models.pointer_generator import PointerGenerator
from attnzoo.models.recommender import Recommender
from attnzoo.models.resnet import ResidualNetwork
from attnzoo.models.rnn_classifier import RnnClassifier
from attnzoo.models.rnn_seq2seq import BahdanauSeq2Seq, LuongSeq2Seq
from attnzoo.models.show_attend_tell import ShowAttendTell
from attnzoo.models.sound_sources import SoundConv, SoundPyramid, SoundWhisper
from attnzoo.models.source_registry import SOURCES
from attnzoo.models.sources import ImagePatches, SourceEncoder
from attnzoo.models.t5 import T5
from attnzoo.models.transformer import Transformer
from attnzoo.models.two_towers import TwoTowers
from attnzoo.models.vit import ViT

TRANSLATORS = {
    "bahdanau": BahdanauSeq2Seq,
    "luong": LuongSeq2Seq,
    "transformer": Transformer,
    "t5": T5,
    "pointer_generator": PointerGenerator,
}
"""Encoder-decoders: ``TRANSLATORS[config.kind](config, source_vocab, target_vocab, rngs=rngs)``."""

DECODERS = {"gpt2": GPT2, "llama": Llama}
"""Language models: ``DECODERS[config.kind](config, vocab_size, rngs=rngs)``."""

ENCODERS = {
    "bert": Bert,
    "recommender": Recommender,
    "bidaf": Bidaf,
    "rnn_classifier": RnnClassifier,
    "decomposable": DecomposableClassifier,
}
"""Encoders of one sequence with a head: ``ENCODERS[config.kind](config, vocab_size, rngs=rngs)``.

Texts, and histories of items, whose vocabulary are the items.
"""

CLASSIFIERS = {"resnet": ResidualNetwork, "vit": ViT}
"""Image classifiers: ``CLASSIFIERS[config.kind](config, num_classes, rngs=rngs)``."""

ALIGNERS = {"word_aligner": WordAligner}
"""Word aligners: ``ALIGNERS[config.kind](config, source_vocab, target_vocab, rngs=rngs)``."""

DETECTORS = {"detr": Detr}
"""Object detectors: ``DETECTORS[config.kind](config, num_classes, rngs=rngs)``."""

CAPTIONERS = {"show_attend_tell": ShowAttendTell}
"""Writers of captions: ``CAPTIONERS[config.kind](config, 0, vocab_size, rngs=rngs)``."""

READERS = {"memory_network": MemoryNetwork}
"""Readers of a memory of sentences: ``READERS[config.kind](config, vocab_size, rngs=rngs)``."""

TOWERS = {"two_towers": TwoTowers}
"""Pairs of encoders, of images and of texts: ``TOWERS[config.kind](config, vocab, rngs=rngs)``."""


def model_class(config: Any) -> Any:
    """Return the model class that a config names: a registered one, or the user's own class."""
    if is_external(config.kind):
        return import_class(config.kind, Model)
    of_texts = TRANSLATORS | DECODERS | ENCODERS | ALIGNERS | READERS
    return (of_texts | CLASSIFIERS | DETECTORS | CAPTIONERS | TOWERS)[config.kind]


__all__ = [
    "ALIGNERS",
    "CAPTIONERS",
    "CLASSIFIERS",
    "DECODERS",
    "DETECTORS",
    "ENCODERS",
    "GPT2",
    "READERS",
    "SOURCES",
    "T5",
    "TOWERS",
    "TRANSLATORS",
    "BahdanauSeq2Seq",
    "Bert",
    "Bidaf",
    "DecomposableClassifier",
    "Detr",
    "ImageConvolution",
    "ImagePatches",
    "ImageResNet",
    "ImageViT",
    "Llama",
    "LuongSeq2Seq",
    "MemoryNetwork",
    "Model",
    "PointerGenerator",
    "Recommender",
    "ResidualNetwork",
    "RnnClassifier",
    "ShowAttendTell",
    "SoundConv",
    "SoundPyramid",
    "SoundWhisper",
    "SourceEncoder",
    "Transformer",
    "TwoTowers",
    "ViT",
    "WordAligner",
    "model_class",
]
