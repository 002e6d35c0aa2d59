"""Bilateral filter: attention with a fixed score keeps edges that a Gaussian filter blurs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnzoo.ops.bilateral import bilateral_filter
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, certain, headline

SIDE, EDGE = 96, 48
LOW, HIGH, NOISE = 0.25, 0.75, 0.05
FLAT = 12
KEPT = "height of the edge kept"
FOLLOWS = "it follows from the weights at a step of 2.5 sigma"
"""Pixels farther than this from the edge, and from the border, are flat."""
SPACE, RANGE = 3.0, 4 * NOISE


def _filtered(image: Float[Array, "1 h w 1"], space: float, value: float) -> np.ndarray:
    found = bilateral_filter(image, sigma_space=space, sigma_range=value)
    return np.asarray(found, np.float64)[0, :, :, 0]


def _noise_left(image: np.ndarray) -> float:
    """Return the standard deviation within the two flat halves, as a share of the noise's."""
    rows, far = slice(FLAT, SIDE - FLAT), FLAT
    halves = image[rows, far : EDGE - far], image[rows, EDGE + far : SIDE - far]
    return float(np.mean([half.std() for half in halves])) / NOISE


def _as_smooth(image: Float[Array, "1 h w 1"], wanted: float) -> np.ndarray:
    """Return the Gaussian filter that leaves as much noise, by bisection of its width."""
    narrow, wide = 0.5, 2 * SPACE
    for _ in range(12):
        middle = (narrow + wide) / 2
        # One window for all widths, so that the program is compiled once.
        found = bilateral_filter(
            image, sigma_space=middle, sigma_range=float("inf"), radius=int(3 * SPACE)
        )
        found = np.asarray(found, np.float64)[0, :, :, 0]
        narrow, wide = (middle, wide) if _noise_left(found) > wanted else (narrow, middle)
    return found


def measure(setting: Setting) -> Mapping[str, Measured]:
    """Filter a noisy step by both, the Gaussian as wide as it must be to leave equal noise."""
    step = jnp.where(jnp.arange(SIDE) < EDGE, LOW, HIGH)[None, None, :, None]
    noise = NOISE * jax.random.normal(jax.random.key(setting.seed), (1, SIDE, SIDE, 1))
    noisy = jnp.broadcast_to(step, noise.shape) + noise
    bilateral = _filtered(noisy, SPACE, RANGE)
    gaussian = _as_smooth(noisy, _noise_left(bilateral))
    found: dict[str, Measured] = {}
    for name, image in (("bilateral", bilateral), ("Gaussian", gaussian)):
        found[f"noise left, {name}"] = _noise_left(image)
        rows = image[FLAT : SIDE - FLAT]
        across = rows[:, EDGE] - rows[:, EDGE - 1]
        found[f"{KEPT}, {name}"] = float(across.mean()) / (HIGH - LOW)
        near = rows[:, EDGE - 4 : EDGE + 4] - np.asarray(step)[0, :, EDGE - 4 : EDGE + 4, 0]
        found[f"error at the edge, {name}"] = float(np.sqrt((near**2).mean())) / (HIGH - LOW)
    return found


def _came(results: Results) -> str:
    kept = {n: results.mean(f"{KEPT}, {n}") for n in ("bilateral", "Gaussian")}
    left = results.mean("noise left, bilateral")
    return (
        f"Both filters leave {left:.0%} of the noise; between the two pixels at the edge the "
        f"bilateral one keeps {kept['bilateral']:.0%} of the step, the Gaussian one "
        f"{kept['Gaussian']:.0%}."
    )


CLAIMS = (
    Claim(
        name="bilateral-keeps-edges",
        title="A filter that weighs by value too keeps edges",
        source="Tomasi and Manduchi 1998, doi 10.1109/ICCV.1998.710815, figure 1",
        claimed="A filter whose weights fall with distance in place and in value smooths noise and "
        "keeps an edge crisp, where a Gaussian filter blurs it.",
        setup="a vertical step of 0.5 with normal noise of deviation 0.05, 96 x 96 pixels, sigma 3 "
        "pixels in place and 0.2 in value; the Gaussian filter is as wide as it must be to leave "
        "the same noise in the flat parts. The paper shows a step of 100 grey levels with noise "
        "of 10, sigma 5 and 50, as a picture.",
        criterion=(
            *(
                headline(certain(check, FOLLOWS))
                for check in (
                    above(f"{KEPT}, bilateral", 0.9),
                    ahead(f"{KEPT}, bilateral", f"{KEPT}, Gaussian", 0.3),
                    ahead("error at the edge, Gaussian", "error at the edge, bilateral"),
                )
            ),
        ),
        measure=measure,
        came=_came,
        otherwise="At these widths the weight by value saves less of the edge than was asked.",
        meaning="Weights that depend on content do what a fixed kernel cannot: average over what "
        "belongs together, wherever its border is.",
        minutes=0.1,
        seeds=5,
        axes=("share", ""),
        in_tests=True,
    ),
)
