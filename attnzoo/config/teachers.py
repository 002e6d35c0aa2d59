"""Settings of the links that teach an aligner, or a head of a translator."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import ByKind, Interval, Positive, config

Rule = Literal[
    "each",
    "forward",
    "backward",
    "intersection",
    "union",
    "grow-diag",
    "grow-diag-final",
    "grow-diag-final-and",
    "strict-grow-diag",
    "strict-grow-diag-final",
]


@config
class TeacherConfig:
    """Settings of a teacher; ``kind`` says where the links of the training pairs come from."""


@config
class EflomalTeacherConfig(TeacherConfig):
    """The sampler eflomal, trained on the training pairs alone (Östling and Tiedemann 2016)."""

    kind: Literal["eflomal"] = "eflomal"
    samplers: Annotated[int, Positive] = 3
    """Number of independent samplers to average."""
    rule: Rule = "each"
    """Combination of the links of both directions; each: a target word learns from the links of
    target words, a source word from those of source words."""


@config
class FileTeacherConfig(TeacherConfig):
    """A file of Pharaoh links, with a line for each training pair in the order of the data."""

    kind: Literal["file"] = "file"
    path: Path
    """Path of the file; gzip is recognised."""


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
    EflomalTeacherConfig | FileTeacherConfig | CorpusTeacherConfig | OwnTeacherConfig,
    ByKind(TeacherConfig),
]
"""Union of the teachers that a config can name."""
