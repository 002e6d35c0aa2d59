"""`benchmark linear`: the chunked form of linear attention beside the recurrent scan.

Both forms of each mechanism are compiled for each length, have to agree, and then take turns on the
same cores, so that whatever else runs on the machine disturbs both alike. What is reported is the
median CPU time of a call, compilation excluded, and the temporary memory that XLA reserves for it.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from attnzoo.errors import UserError

if TYPE_CHECKING:  # --help and wrong arguments are answered without jax
    import jax

# Sums of some thousand float32 terms in two orders; the inputs make outputs of order 1.
TOLERANCE = 1e-3
TOLERANCE_OF_CHOICE = 1.10


def add_parser(workloads: Any, positive: Callable[[str], int]) -> None:
    """The options of this workload."""
    parser = workloads.add_parser(
        "linear",
        help="linear attention in chunks against the recurrent scan",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--lengths", type=positive, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--mechanisms", nargs="+", metavar="NAME", help="all if not given")
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--heads", type=positive, default=4)
    parser.add_argument("--width", type=positive, default=64, help="of keys and values in a head")
    parser.add_argument("--chunk", type=positive, default=64, help="positions of a chunk")
    parser.add_argument("--rounds", type=positive, default=5, help="timed calls of each form")
    parser.add_argument("--threads", type=positive, default=1, help="cores to run on")
    parser.add_argument(
        "--gradients", action="store_true", help="time output and gradients, not the output alone"
    )
    parser.add_argument(
        "--check-choice",
        action="store_true",
        help="exit code 1 if what form=None takes is more than 10%% slower than another form",
    )


FORMS = ("recurrent", "chunked")


class Form(NamedTuple):
    """One form of a mechanism, compiled for one length."""

    call: Callable[..., Any]
    temporary: int
    """Bytes that XLA reserves beside arguments and results."""
    times: list[float]
    """CPU seconds of each timed call."""


def measure(arguments: argparse.Namespace, cores: list[int]) -> int:
    """Exit code 0: measured; a UserError: the forms disagree, or there is no such mechanism."""
    if cores:
        os.sched_setaffinity(0, cores)  # before jax counts the cores
    names = list(mechanisms()) if arguments.mechanisms is None else arguments.mechanisms
    for name in names:
        if name not in mechanisms():
            raise UserError(f"--mechanisms {name}: wanted some of {', '.join(mechanisms())}")
    if arguments.check_choice:
        return check_choice(names, arguments)
    print(
        f"batch {arguments.batch}, {arguments.heads} heads of width {arguments.width}, "
        f"chunks of {arguments.chunk}, float32, {arguments.threads} core(s), "
        f"{'output and gradients' if arguments.gradients else 'output'}, "
        f"{arguments.rounds} rounds, medians of CPU time\n"
    )
    print("| mechanism | length | recurrent ms | chunked ms | ratio | recurrent MB | chunked MB |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        for length in arguments.lengths:
            recurrent, chunked = _compare(name, length, arguments)
            times = [1e3 * statistics.median(form.times) for form in (recurrent, chunked)]
            memory = [form.temporary / 2**20 for form in (recurrent, chunked)]
            print(
                f"| {name} | {length} | {times[0]:.1f} | {times[1]:.1f} | "
                f"{times[0] / times[1]:.1f} | {memory[0]:.1f} | {memory[1]:.1f} |",
                flush=True,
            )
    return 0


def mechanisms() -> dict[str, Callable[..., Any]]:
    """Name -> function of q, k, v, beta, one gate a head, one gate a channel, and keywords."""
    from attnzoo.ops import linear

    return {
        "sum_rule": lambda q, k, v, b, g, gs, **kw: linear.linear_attention(q, k, v, **kw),
        "delta_rule": lambda q, k, v, b, g, gs, **kw: linear.delta_rule(q, k, v, b, **kw),
        "delta_net": lambda q, k, v, b, g, gs, **kw: linear.delta_net(q, k, v, b, **kw),
        "gated_delta_net": lambda q, k, v, b, g, gs, **kw: linear.gated_delta_net(
            q, k, v, b, g, **kw
        ),
        "gla": lambda q, k, v, b, g, gs, **kw: linear.gated_linear_attention(q, k, v, gs, **kw),
        "retnet": lambda q, k, v, b, g, gs, **kw: linear.retention(q, k, v, **kw),
    }


def compiled(
    name: str, form: str | None, inputs: Any, *, chunk: int = 64, gradients: bool = False
) -> "jax.stages.Compiled":
    """A mechanism's form compiled for these inputs (arrays, or shapes with dtypes)."""
    import jax
    import jax.numpy as jnp

    def output(*inputs: Any) -> Any:
        return mechanisms()[name](*inputs, form=form, chunk_size=chunk)

    def loss(*inputs: Any) -> Any:
        return jnp.mean(output(*inputs) ** 2)

    function = jax.grad(loss, argnums=tuple(range(6))) if gradients else output
    return jax.jit(function).lower(*inputs).compile()


def check_choice(names: list[str], arguments: argparse.Namespace) -> int:
    """Print CPU ms of the choice and of both forms; exit code 1 if a form is 10 % faster.

    What seems too slow is timed again with three times the rounds before it counts.
    """
    print(f"{'':<34}{'chosen':>9}{'recurrent':>11}{'chunked':>9}   chosen / faster, by pairs")
    wrong = 0
    for name in names:
        for length in arguments.lengths:
            for arguments.gradients in (False, True):
                forms = _compare(name, length, arguments, (None, *FORMS))
                ratio = _ratio(forms)
                if ratio > TOLERANCE_OF_CHOICE:
                    for form in forms:
                        form.times.clear()
                    _time(forms, _inputs(length, arguments), 3 * arguments.rounds)
                    ratio = _ratio(forms)
                wrong += ratio > TOLERANCE_OF_CHOICE
                cells = [1e3 * statistics.median(form.times) for form in forms]
                what = f"{name}, {length}{', gradients' * arguments.gradients}"
                print(
                    f"{what:<34}{cells[0]:>9.1f}{cells[1]:>11.1f}{cells[2]:>9.1f}   {ratio:.2f}",
                    flush=True,
                )
    print(f"\n{wrong} choices are more than {TOLERANCE_OF_CHOICE - 1:.0%} slower than a form")
    return 1 if wrong else 0


def _ratio(forms: list[Form]) -> float:
    """Return the median ratio of the first form to the faster other one."""
    chosen, *others = (form.times for form in forms)
    faster = min(others, key=statistics.median)
    return statistics.median(a / b for a, b in zip(chosen, faster, strict=True))


def _compare(
    name: str,
    length: int,
    arguments: argparse.Namespace,
    wanted: tuple[str | None, ...] = FORMS,
) -> list[Form]:
    import jax
    import numpy as np

    inputs = _inputs(length, arguments)
    forms, results = [], []
    for form in wanted:
        program = compiled(name, form, inputs, chunk=arguments.chunk, gradients=arguments.gradients)
        memory = program.memory_analysis()
        forms.append(Form(program, 0 if memory is None else memory.temp_size_in_bytes, []))
        results.append([np.asarray(x) for x in jax.tree.leaves(program(*inputs))])
    for one, other in zip(results[-2], results[-1], strict=True):
        apart = np.abs(one - other).max() / max(np.abs(one).max(), np.finfo(np.float32).tiny)
        if not apart <= TOLERANCE:
            raise UserError(
                f"{name}, length {length}: the forms differ by {apart:.1e} of the largest number "
                f"(allowed: {TOLERANCE:.0e}); their times say nothing"
            )
    _time(forms, inputs, arguments.rounds)
    return forms


def _time(forms: list[Form], inputs: Any, rounds: int) -> None:
    import jax

    for _ in range(rounds):
        for form in forms:
            start = time.process_time()
            jax.block_until_ready(form.call(*inputs))
            form.times.append(time.process_time() - start)


def _inputs(length: int, arguments: argparse.Namespace) -> "list[jax.Array]":
    """Normal q, k, v; write strengths in (0, 1); decays as the papers' gates start."""
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(0)
    heads = (arguments.batch, length, arguments.heads)
    q, k, v = random.standard_normal((3, *heads, arguments.width))
    beta = random.uniform(size=heads)
    gate = -random.exponential(0.1, heads)
    gates = -random.exponential(0.1, (*heads, arguments.width))
    return [jnp.asarray(x, jnp.float32) for x in (q, k, v, beta, gate, gates)]
