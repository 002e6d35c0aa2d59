"""Settings of the links that teach an aligner, or a head of a translator."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.alignment import Rule
from attnzoo.config.fields import ByKind, Interval, NotNegative, Positive, config

TeacherRule = Literal["each"] | Rule


@config
class TeacherConfig:
    """Settings of a teacher; ``kind`` says where the links of the training pairs come from."""


@config
class EflomalTeacherConfig(TeacherConfig):
    """The sampler eflomal, trained on the training pairs alone (Östling and Tiedemann 2016)."""

    kind: Literal["eflomal"] = "eflomal"
    samplers: Annotated[int, Positive] = 3
    """Number of independent samplers to average."""
    rule: TeacherRule = "each"
    """Combination of the links of both directions; each: a target word learns from the links of
    target words, a source word from those of source words."""


@config
class HmmTeacherConfig(TeacherConfig):
    """A hidden Markov model of word alignment, trained on the training pairs alone."""

    kind: Literal["hmm"] = "hmm"
    rule: TeacherRule = "mutual"
    """Links from the probabilities of both directions, as of eflomal; mutual: those that are the
    likeliest of both their words."""


@config
class FileTeacherConfig(TeacherConfig):
    """A file of Pharaoh links, with a line for each training pair in the order of the data."""

    kind: Literal["file"] = "file"
    path: Path
    """Path of the file, compressed or not."""


@config
class CorpusTeacherConfig(TeacherConfig):
    """The reference links of the training data, which make the training supervised."""

    kind: Literal["corpus"] = "corpus"


@config
class OwnTeacherConfig(TeacherConfig):
    """The model's own alignment of the same batch, without a gradient (self-training).

    A word aligner takes the links that both of its directions find (Dou and Neubig 2021), a
    translator the mean of all heads of the guided layer (Garg et al. 2019, section 3.2).
    """

    kind: Literal["own"] = "own"
    threshold: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Least probability of a link of a word aligner, in both directions."""


Teacher = Annotated[
    EflomalTeacherConfig
    | HmmTeacherConfig
    | FileTeacherConfig
    | CorpusTeacherConfig
    | OwnTeacherConfig,
    ByKind(TeacherConfig),
]
"""Union of the teachers that a config can name."""


@config
class GuidedConfig:
    """One head of a translator learns links between words (Chen et al. 2016, Garg et al. 2019)."""

    teacher: Teacher = EflomalTeacherConfig()
    """Links of the training pairs. Reference links of the data teach only if this says so."""
    weight: Annotated[float, Positive] = 0.05
    """Weight of the cross-entropy of the links, beside that of the translation."""
    layer: Annotated[int, NotNegative] | None = None
    """Layer of the head, from 0; null: the model's alignment layer."""
    head: Annotated[int, NotNegative] = 0
    """Number of the head, from 0. Alignments are read from it unless another is asked for."""
    timing: Literal["auto", "predicted", "input"] = "auto"
    """Step that learns the links of a target word: the one that predicts it (predicted), or the
    next, which has read it (input); auto: input if there is such a step, which Bahdanau's model
    has not."""
    unlinked: Literal["ignore", "eos"] = "ignore"
    """Target words without a link learn nothing, or to attend to the end of the source (eos)."""
    full_context: bool = False
    """Learn and read the links in a second pass of a Transformer's decoder, without a causal mask
    (Garg et al. 2019, section 4.2); the translation is that of the first pass."""

    module: Annotated[int, NotNegative] = 0
    """Number of heads of an alignment module at the layer, which is trained alone while the
    translator stays as it is (Shift-AET: Chen et al. 2020, section 3.2); 0: a head of the layer."""
    contiguity: Annotated[float, NotNegative] = 0.0
    """Weight of the contiguity loss, beside that of the links: links of neighbouring words are
    neighbours (Zenkel et al. 2020, arXiv 2004.14675); 0: none."""

    def __post_init__(self) -> None:
        if self.module and (self.full_context or self.head or self.teacher.kind == "own"):
            raise ValueError(
                f"module={self.module} has weights of its own: wanted full_context=false, head=0 "
                "and a teacher other than own"
            )
        if self.full_context and self.teacher.kind == "own":
            raise ValueError(
                "full_context=true with teacher.kind=own: the heads of the second pass learn from "
                "this loss alone; take teacher.kind=file, and the links that `align -o` wrote"
            )
