"""Plots: functions that take arrays and return matplotlib figures.

No other package imports matplotlib. No figure needs a display or uses pyplot, so no global state
changes.
"""

from matplotlib.figure import Figure

from attnzoo.plotting.alignment import AlignmentPicture, alignment_grid, alignment_heatmap
from attnzoo.plotting.boxes import detections
from attnzoo.plotting.captions import caption_attention
from attnzoo.plotting.copying import copy_picture
from attnzoo.plotting.curves import (
    LinePanel,
    bleu_by_length,
    line_panels,
    training_curves,
)
from attnzoo.plotting.explanations import (
    Overlay,
    TokenRow,
    map_grid,
    overlays,
    patch_grid,
    token_rows,
    visible,
)
from attnzoo.plotting.links import beads, link_matrix
from attnzoo.plotting.passages import Passage, passages
from attnzoo.plotting.speech import speech_alignment
from attnzoo.plotting.style import save, to_rgb
from attnzoo.plotting.weights import WeightPanel, gate_panels, matrix_grid, weight_panels

__all__ = [
    "AlignmentPicture",
    "Figure",
    "LinePanel",
    "Overlay",
    "Passage",
    "TokenRow",
    "WeightPanel",
    "alignment_grid",
    "alignment_heatmap",
    "beads",
    "bleu_by_length",
    "caption_attention",
    "copy_picture",
    "detections",
    "gate_panels",
    "line_panels",
    "link_matrix",
    "map_grid",
    "matrix_grid",
    "overlays",
    "passages",
    "patch_grid",
    "save",
    "speech_alignment",
    "to_rgb",
    "token_rows",
    "training_curves",
    "visible",
    "weight_panels",
]
