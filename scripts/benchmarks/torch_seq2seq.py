"""The PyTorch peer of `benchmark seq2seq`: the same model, as one would write it in PyTorch.

Bahdanau's GRU is none of ``torch.nn``'s, so both run in Python loops. All that does not depend on
the state is outside of them: input projections, the keys, the readout and the output layer. Inside,
products of one operand are fused: both directions of the encoder in one batched product, the query
with the gates in the decoder. Weights come under the names of our parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Weights = dict[str, Tensor]


class TorchSeq2Seq:
    """RNNsearch with its Adam step; ``weights`` are float32 arrays by parameter name."""

    def __init__(self, weights: dict[str, np.ndarray], *, learning_rate: float, clip_norm: float):
        import torch

        self.weights: Weights = {
            name: torch.tensor(array, requires_grad=True) for name, array in weights.items()
        }
        self.clip_norm = clip_norm
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=learning_rate, fused=True)

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy per real token of ``target[:, 1:]``; ids are padded with 0."""
        import torch
        import torch.nn.functional as F

        w = self.weights
        valid = source != 0
        annotations, backward_first = encode(w, source, valid)
        keys = annotations @ w["attention.key_kernel"]
        padding = ~valid
        embedded = F.embedding(target[:, :-1], w["target_embedding.embedding"])
        projected = embedded @ w["decoder.input_kernel"] + w["decoder.bias"]
        hidden = torch.tanh(backward_first @ w["initial.kernel"] + w["initial.bias"])
        width = hidden.shape[1]
        of_hidden = torch.cat([w["attention.query_kernel"], w["decoder.gate_kernel"]], dim=1)
        before, contexts = [], []
        for step in projected.unbind(1):
            products = hidden @ of_hidden
            query, gates = products[:, : -2 * width], products[:, -2 * width :]
            scores = torch.tanh(query[:, None] + keys) @ w["attention.score_kernel"]
            alpha = torch.softmax(scores.masked_fill(padding, -torch.inf), dim=-1)
            context = torch.bmm(alpha[:, None], annotations)[:, 0]
            before.append(hidden)
            contexts.append(context)
            step = torch.addmm(step, context, w["context_kernel.kernel"])
            update, reset = torch.sigmoid(step[:, : 2 * width] + gates).chunk(2, dim=1)
            candidate = torch.tanh(
                torch.addmm(step[:, 2 * width :], reset * hidden, w["decoder.candidate_kernel"])
            )
            hidden = torch.lerp(hidden, candidate, update)
        pairs = (
            torch.stack(before, 1) @ w["readout_state.kernel"]
            + w["readout_state.bias"]
            + embedded @ w["readout_embedding.kernel"]
            + torch.stack(contexts, 1) @ w["readout_context.kernel"]
        )
        maxout = pairs.unflatten(-1, (-1, 2)).amax(-1)
        logits = F.linear(maxout, w["output.kernel"].t(), w["output.bias"])
        return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)

    def step(self, source: Tensor, target: Tensor) -> Tensor:
        """Forward, backward, clip by the global norm, Adam."""
        from torch.nn.utils import clip_grad_norm_

        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(source, target)
        loss.backward()
        clip_grad_norm_(self.weights.values(), self.clip_norm)
        self.optimizer.step()
        return loss.detach()


def encode(w: Weights, source: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Annotations B S 2D, and the backward state of the first word, which ends that direction."""
    import torch
    import torch.nn.functional as F

    directions = ("forward_encoder", "backward_encoder")
    input_kernel = torch.cat([w[f"{name}.input_kernel"] for name in directions], dim=1)
    bias = torch.cat([w[f"{name}.bias"] for name in directions])
    gate_kernel = torch.stack([w[f"{name}.gate_kernel"] for name in directions])
    candidate_kernel = torch.stack([w[f"{name}.candidate_kernel"] for name in directions])

    embedded = F.embedding(source, w["source_embedding.embedding"])
    forward, backward = (embedded @ input_kernel + bias).chunk(2, dim=-1)
    steps = torch.stack([forward, backward.flip(1)]).unbind(2)
    alive = torch.stack([valid, valid.flip(1)])[..., None].unbind(2)
    width = candidate_kernel.shape[1]
    hidden = embedded.new_zeros(2, source.shape[0], width)
    states = []
    for step, real in zip(steps, alive, strict=True):
        gates = torch.baddbmm(step[..., : 2 * width], hidden, gate_kernel)
        update, reset = torch.sigmoid(gates).chunk(2, dim=-1)
        candidate = torch.tanh(
            torch.baddbmm(step[..., 2 * width :], reset * hidden, candidate_kernel)
        )
        hidden = torch.where(real, torch.lerp(hidden, candidate, update), hidden)
        states.append(hidden)
    stacked = torch.stack(states, dim=2)
    annotations = torch.cat([stacked[0], stacked[1].flip(1)], dim=-1)
    return annotations, hidden[1]
