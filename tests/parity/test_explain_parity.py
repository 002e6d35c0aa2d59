"""Explanations beside PyTorch's of the same ViT: captum's, LXT's rules, and autograd itself."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import explain, pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES = [4, 1]


@pytest.fixture
def theirs() -> Any:
    config = transformers.ViTConfig(
        hidden_size=20,
        num_hidden_layers=3,
        num_attention_heads=5,
        image_size=15,
        patch_size=3,
        num_channels=2,
        num_labels=7,
        intermediate_size=11,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


@pytest.fixture
def ours(theirs: Any, tmp_path: Path) -> Any:
    theirs.save_pretrained(tmp_path)
    return pretrained.load(tmp_path)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 15, 15, 2)).astype(np.float32)


def to_torch(pixels: np.ndarray) -> Any:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def from_torch(images: Any) -> np.ndarray:
    return images.detach().permute(0, 2, 3, 1).numpy()


def close(got: Any, want: Any) -> None:
    """To 1e-4 of what is largest: float32 through three layers and back."""
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_weights_and_their_gradients_are_autograds(theirs: Any, ours: Any, pixels: Any) -> None:
    out = theirs(to_torch(pixels), output_attentions=True)
    target = out.logits[range(2), CLASSES].sum()
    gradients = torch.autograd.grad(target, out.attentions)
    found = explain.weight_gradients(ours, jnp.asarray(CLASSES), jnp.asarray(pixels))
    for name, weights, gradient in zip(found.weights, out.attentions, gradients, strict=True):
        close(found.weights[name], weights.detach())
        close(found.gradients[name], gradient)
    # Relevance, and rollout, of those in float64.
    eye = np.eye(26)
    R, rolled = np.stack([eye] * 2), np.stack([eye] * 2)
    for weights, gradient in zip(out.attentions, gradients, strict=True):
        a, g = weights.detach().double().numpy(), gradient.double().numpy()
        R = R + np.maximum(a * g, 0).mean(1) @ R
        rolled = (a.mean(1) + eye) / 2 @ rolled
    close(explain.relevance(list(found.weights.values()), list(found.gradients.values())), R)
    close(explain.rollout(list(found.weights.values())), rolled)


def test_cdam_is_autograds_at_the_last_norm(theirs: Any, ours: Any, pixels: Any) -> None:
    kept: list[Any] = []
    norm = theirs.vit.layers[-1].layernorm_before if hasattr(theirs.vit, "layers") else None
    norm = theirs.vit.encoder.layer[-1].layernorm_before if norm is None else norm
    norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = theirs(to_torch(pixels)).logits
    (gradient,) = torch.autograd.grad(logits[range(2), CLASSES].sum(), kept)
    want = (kept[0] * gradient).sum(-1).detach()
    close(explain.cdam(ours, jnp.asarray(CLASSES), jnp.asarray(pixels)), want)


def test_gradcam_is_captums(theirs: Any, ours: Any, pixels: Any) -> None:
    captum = pytest.importorskip("captum.attr")

    class Swap(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.transpose(1, 2)

    layers = theirs.vit.layers if hasattr(theirs.vit, "layers") else theirs.vit.encoder.layer
    # captum's channels are the second axis: tokens and features change places, and back.
    swapped = torch.nn.Sequential(layers[-1].layernorm_before, Swap(), Swap())
    layers[-1].layernorm_before = swapped
    method = captum.LayerGradCam(lambda x: theirs(x).logits, swapped[1])
    want = method.attribute(to_torch(pixels), target=CLASSES, relu_attributions=True)[:, 0].detach()
    close(explain.gradcam(ours, jnp.asarray(CLASSES), jnp.asarray(pixels)), want)


def test_gradient_baselines_are_captums(theirs: Any, ours: Any, pixels: Any) -> None:
    captum = pytest.importorskip("captum.attr")

    def logits(x: Any) -> Any:
        return theirs(x).logits

    def f(x: jax.Array) -> jax.Array:
        return explain.chosen(ours(x), jnp.asarray(CLASSES))

    x = to_torch(pixels).requires_grad_()
    want = captum.InputXGradient(logits).attribute(x, target=CLASSES)
    close(explain.gradient_times_input(f, jnp.asarray(pixels)), from_torch(want))
    want = captum.IntegratedGradients(logits).attribute(
        x, target=CLASSES, n_steps=11, method="riemann_middle"
    )
    got = explain.integrated_gradients(f, jnp.asarray(pixels), steps=11)
    close(got, from_torch(want))


def test_attn_lrp_is_lxts(theirs: Any, ours: Any, pixels: Any) -> None:
    """LXT's rules, operation by operation, on these weights, in float64: it divides by outputs and
    multiplies again, which loses digits where one is near 0.
    """
    rules = pytest.importorskip("lxt.explicit.functional")
    core = pytest.importorskip("lxt.explicit.rules")

    def tensor(parameter: Any) -> Any:
        return torch.from_numpy(np.asarray(parameter[...], np.float64))

    def linear(layer: Any, x: Any, scale: float = 1.0) -> Any:
        kernel, bias = scale * tensor(layer.kernel).T, scale * tensor(layer.bias)
        return rules.linear_epsilon(x, kernel, bias, 1e-9)

    def norm(layer: Any, x: Any) -> Any:
        # layer_norm itself has a stabiliser of 1e-6, which shows where a number is nearly 0.
        rule = rules.layer_norm_grad_fn.apply
        return rule(x, tensor(layer.scale), tensor(layer.bias), layer.eps, 1e-9)

    def heads(x: Any) -> Any:
        return x.reshape(2, 26, 5, 4).transpose(1, 2)

    embedded = np.asarray(ours.embed(jnp.asarray(pixels)), np.float64)
    x = torch.from_numpy(embedded).requires_grad_()
    h = x
    for block in ours.encoder.blocks:
        attention = block.attention.mechanism
        entered = norm(block.attention_norm, h)
        # The scale of 1/sqrt(4) is a part of the keys': a quotient would halve what passes.
        q, v = (heads(linear(p, entered)) for p in (attention.query, attention.value))
        k = heads(linear(attention.key, entered, 0.5)).transpose(-1, -2)
        weights = rules.softmax(rules.matmul(q, k, epsilon=1e-9), -1)
        read = rules.matmul(weights, v, epsilon=1e-9).transpose(1, 2).reshape(2, 26, 20)
        h = rules.add2(h, linear(attention.out, read), epsilon=1e-9)
        feed = block.feed_forward
        hidden = core.identity(
            torch.nn.functional.gelu, linear(feed.up, norm(block.feed_forward_norm, h))
        )
        h = rules.add2(h, linear(feed.down, hidden), epsilon=1e-9)
    logits = linear(ours.head, norm(ours.norm, h)[:, 0])
    np.testing.assert_allclose(logits.detach(), ours(jnp.asarray(pixels)), rtol=1e-3, atol=1e-4)
    chosen = logits[range(2), CLASSES]
    (relevance,) = torch.autograd.grad(chosen, x, chosen.detach())
    got = explain.attn_lrp(ours, jnp.asarray(CLASSES), jnp.asarray(pixels))
    want = relevance.sum(-1)
    close(got, want)
