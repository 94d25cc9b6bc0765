"""One meta-step of Conv-4 on images, fewstep beside PyTorch and plain JAX: the figures of docs/benchmarks.md.

python -m benchmarks.speed.images [--only NAME ...]      some eight minutes on two cores
On a GPU: --meta-batch 32 256 --rounds 1 --only exact bfloat16 torch_loop --out docs/records/speed/images_gpu.json
Rows: fewstep by three ways to the gradient, normalizing by batch; `bfloat16`: exact, as with --precision bfloat16; `groups`:
exact, normalizing by groups, and `equinox`: this network as a user of equinox writes it; PyTorch in a loop over tasks and by
torch.func; plain_jax: vmap, as one writes it. --cache FOLDER keeps compiled programs, and --compile only makes them.
Each row runs in a process of its own, several rounds one after the other, so that a busy moment falls on all of them alike.
Needs torch and equinox (`pip install -e '.[bench,test]'`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Any, NamedTuple

from benchmarks.records import Options, cores, in_turn, median_ratio, timed, write


class Case(NamedTuple):
    """A meta-step, as in Finn et al. 2017, section 5.2 and appendix A."""

    image: tuple[int, int, int]
    filters: int
    reduction: str
    steps: int
    queries: int
    tasks: int


CASES = {
    "28 x 28, 1 step": Case((28, 28, 1), 64, "stride", 1, 5, 32),
    "84 x 84, 5 steps": Case((84, 84, 3), 32, "pool", 5, 75, 4),
}
WAYS, RATE = 5, 0.01
ROWS = ("stored", "exact", "first-order", "groups", "equinox", "torch_loop", "torch_func", "plain_jax", "bfloat16")
ONCE = {"plain_jax": ("28 x 28, 1 step",)}
"""rows that are measured in these cases alone: elsewhere they take minutes"""


def main() -> None:
    parser = Options(__doc__, "speed/images.json")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS[:-1]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--meta-batch", nargs="+", type=int, help="tasks of a meta-step, in place of 32 and 4")
    parser.add_argument("--reference", default="torch_loop", choices=ROWS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cache", default="", help="folder of compiled programs; by default a new one")
    parser.add_argument("--compile", action="store_true", help="compile all rows at once, without measuring")
    arguments = parser.parse_args()
    if arguments.worker:
        row, case = arguments.worker
        print(json.dumps(measure(row, Case(*json.loads(case)), arguments.compile)))
        return
    if arguments.compile:
        compile_all(arguments)
        return
    record: dict[str, Any] = {"cases": {}, "rounds": arguments.rounds}
    for name, case in CASES.items():
        for tasks in arguments.meta_batch or [case.tasks]:
            title = name if tasks == case.tasks else f"{name}, {tasks} tasks"
            record["cases"][title] = compare(name, case._replace(tasks=tasks), arguments)
            print_case(title, record["cases"][title])
    record["matrix_rate"] = matrix_rate("float32")
    record |= {"matrix_rate_bfloat16": matrix_rate("bfloat16")} if "bfloat16" in arguments.only else {}
    write(arguments.out, record)


def compile_all(arguments: Any) -> None:
    """The programs of all rows and cases in processes side by side, into the cache."""
    sizes = [case._replace(tasks=tasks) for case in CASES.values() for tasks in arguments.meta_batch or [case.tasks]]
    rows = [row for row in arguments.only if not row.startswith("torch")]
    around = surroundings(arguments.cache)
    for process in [subprocess.Popen(words(row, case, "--compile"), env=around) for case in sizes for row in rows]:
        process.wait()


def compare(name: str, case: Case, arguments: Any) -> dict[str, Any]:
    """Rounds of all rows: medians of seconds, and of the ratio to the reference in the same round."""
    rows = [row for row in arguments.only if name in ONCE.get(row, (name,))]
    with tempfile.TemporaryDirectory() as folder:
        programs = {row: partial(worker, row, case, arguments.cache or folder) for row in rows}
        found = in_turn(programs, arguments.rounds, warm=0)
    result = {}
    for row, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        result[row] = {
            "seconds": statistics.median(seconds),
            "times_reference": median_ratio([run["seconds"] for run in found.get(arguments.reference, runs)], seconds),
            "compile_cold": runs[0]["compile"],
            "compile_cached": statistics.median(run["compile"] for run in runs[1:] or runs),
            "peak_mib": statistics.median(run["peak_mib"] for run in runs),
            **{key: runs[0][key] for key in ("operations", "device") if key in runs[0]},
        }
    return result


def worker(row: str, case: Case, cache: str) -> dict[str, Any]:
    done = subprocess.run(words(row, case), check=True, capture_output=True, text=True, env=surroundings(cache))
    return json.loads(done.stdout)


def words(row: str, case: Case, *more: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.speed.images", "--worker", row, json.dumps(case), *more]


def surroundings(cache: str) -> dict[str, str]:
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def measure(row: str, case: Case, only_compile: bool) -> dict[str, Any]:
    """Seconds of a warm meta-step: the least of some, in a process that does nothing else."""
    case = case._replace(image=tuple(case.image))
    made = torch_step(row, case) if row.startswith("torch") else jax_step(row, case)
    step, told = made
    if only_compile:
        return told
    step()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 3 and len(seconds) < 20):
        seconds.append(timed(step))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(seconds), "peak_mib": peak, **told}


def jax_step(row: str, case: Case):
    """fewstep as its training runs it, tasks split over cores; plain_jax: value_and_grad of the mean of a vmap."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import PartitionSpec

    from fewstep import Examples, Learner, MetaParams, nn
    from fewstep.core import losses
    from fewstep.core.maml import meta_gradient, task_loss
    from fewstep.core.types import Episode
    from fewstep.gradients import exact, first_order, stored
    from fewstep.training.devices import task_mesh, use_cpu_cores, use_gpu_libraries
    from fewstep.training.operations import operations
    from fewstep.training.tuning import in_half_precision, tune_learner

    if row != "plain_jax":
        use_cpu_cores()
        use_gpu_libraries()
    key = jax.random.key(0)
    if row == "equinox":
        theta, apply = equinox_conv4(case)
    else:
        network = nn.conv4(case.image, WAYS, case.filters, case.reduction, "group" if row == "groups" else "batch")  # type: ignore
        theta, apply = network.init(key), network.apply
    loss = losses.cross_entropy(lambda params, images: jax.nn.log_softmax(apply(params, images)))

    def examples(count: int, key: Any) -> Examples:
        labels = jnp.tile(jnp.eye(WAYS), (case.tasks, count // WAYS, 1))
        return Examples(jax.random.normal(key, (case.tasks, count, *case.image)), labels, jnp.ones((case.tasks, count)))

    episodes = Episode(examples(WAYS, key), examples(case.queries, jax.random.key(1)))
    keys, params, zero = jax.random.split(key, case.tasks), MetaParams(theta), jnp.zeros((), jnp.int32)
    way = {
        "stored": stored,
        "exact": exact,
        "bfloat16": exact,
        "first-order": first_order,
        "groups": exact,
        "equinox": exact,
        "plain_jax": stored,
    }[row]
    learner, told = Learner(loss, optax.sgd(RATE), case.steps, task_gradient=way), {"device": jax.devices()[0].device_kind}
    if row == "plain_jax":

        def meta_loss(params, episodes, keys):
            return jnp.mean(jax.vmap(lambda episode, key: task_loss(learner, params, episode, key, zero))(episodes, keys))

        function = jax.jit(jax.value_and_grad(meta_loss))
    else:
        mesh = task_mesh()
        one = jax.tree.map(lambda leaf: leaf[0], episodes)
        learner = tune_learner(learner, params, one, -(-case.tasks // mesh.size), mesh)
        learner = in_half_precision(learner) if row == "bfloat16" else learner
        whole = lambda params, episodes, keys: meta_gradient(learner, params, episodes, keys, zero)  # noqa: E731
        told["operations"] = operations(whole, params, episodes, keys)
        share = lambda *arguments: jax.lax.pmean(whole(*arguments), "tasks")  # noqa: E731
        split = PartitionSpec("tasks")
        function = jax.jit(
            jax.shard_map(
                share, mesh=mesh, in_specs=(PartitionSpec(), split, split), out_specs=PartitionSpec(), check_vma=False
            )
        )
    started = time.perf_counter()
    program = function.lower(params, episodes, keys).compile()
    told["compile"] = time.perf_counter() - started
    placed = jax.device_put((params, episodes, keys), program.input_shardings[0])
    return lambda: jax.block_until_ready(program(*placed)), told


def equinox_conv4(case: Case):
    """Conv-4 as a user of equinox writes it: images one by one, channels first, its own pooling and normalization by groups."""
    import equinox
    import jax

    class Conv4(equinox.Module):
        convolutions: list
        norms: list
        pool: Any
        last: Any

        def __init__(self, key):
            keys, size, channels = jax.random.split(key, 5), case.image[0], case.image[2]
            stride = 2 if case.reduction == "stride" else 1
            sizes = [channels, *[case.filters] * 3]
            self.convolutions = [
                equinox.nn.Conv2d(inputs, case.filters, 3, stride=stride, padding=1, key=key)
                for inputs, key in zip(sizes, keys[:4], strict=True)
            ]
            self.norms = [equinox.nn.GroupNorm(case.filters // 16, case.filters) for _ in sizes]
            self.pool = equinox.nn.MaxPool2d(2, 2) if case.reduction == "pool" else None
            for _ in sizes:
                size = size // 2 if self.pool else -(-size // 2)
            self.last = equinox.nn.Linear(case.filters * size * size, WAYS, key=keys[4])

        def __call__(self, x):
            for convolve, norm in zip(self.convolutions, self.norms, strict=True):
                x = jax.nn.relu(norm(convolve(x)))
                x = self.pool(x) if self.pool else x
            return self.last(x.ravel())

    params, rest = equinox.partition(Conv4(jax.random.key(0)), equinox.is_inexact_array)
    return params, lambda params, images: jax.vmap(equinox.combine(params, rest))(images.transpose(0, 3, 1, 2))


def torch_step(row: str, case: Case):
    """The same network and meta-step: a loop over tasks by autograd, or torch.func's vmap over them."""
    import torch
    import torch.nn.functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX and cuDNN do
    size, channels, stride = case.image[0], case.image[2], 2 if case.reduction == "stride" else 1
    weights = []
    for _ in range(4):
        weights += [torch.randn(case.filters, channels, 3, 3) * (2 / (9 * channels)) ** 0.5, torch.zeros(case.filters)]
        weights += [torch.ones(case.filters), torch.zeros(case.filters)]
        channels, size = case.filters, size // 2 if case.reduction == "pool" else -(-size // 2)
    weights += [torch.randn(WAYS, case.filters * size * size) * 0.05, torch.zeros(WAYS)]
    weights = [weight.to(device).requires_grad_() for weight in weights]

    def apply(weights, x):
        for layer in range(4):
            kernel, bias, scale, shift = weights[4 * layer : 4 * layer + 4]
            x = F.relu(
                F.batch_norm(F.conv2d(x, kernel, bias, stride=stride, padding=1), None, None, scale, shift, training=True)
            )
            x = F.max_pool2d(x, 2) if case.reduction == "pool" else x
        return F.linear(x.flatten(1), weights[-2], weights[-1])

    images = lambda count: torch.randn(case.tasks, count, case.image[2], *case.image[:2], device=device)  # noqa: E731
    support, query = images(WAYS), images(case.queries)
    labels = torch.arange(WAYS, device=device)
    query_labels = labels.repeat(case.queries // WAYS)

    def loop():
        for weight in weights:
            weight.grad = None
        for task in range(case.tasks):
            adapted = weights
            for _ in range(case.steps):
                loss = F.cross_entropy(apply(adapted, support[task]), labels)
                slopes = torch.autograd.grad(loss, adapted, create_graph=True)
                adapted = [weight - RATE * slope for weight, slope in zip(adapted, slopes, strict=True)]
            (F.cross_entropy(apply(adapted, query[task]), query_labels) / case.tasks).backward()
        synchronize()

    def task_loss(weights, support, query):
        for _ in range(case.steps):
            slopes = torch.func.grad(lambda weights: F.cross_entropy(apply(weights, support), labels))(weights)
            weights = [weight - RATE * slope for weight, slope in zip(weights, slopes, strict=True)]
        return F.cross_entropy(apply(weights, query), query_labels)

    def together():
        plain = [weight.detach() for weight in weights]
        gradients = torch.func.vmap(torch.func.grad(task_loss), in_dims=(None, 0, 0))(plain, support, query)
        [gradient.mean(0) for gradient in gradients]
        synchronize()

    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    kind = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return loop if row == "torch_loop" else together, {"compile": 0.0, "device": kind}


def print_case(title: str, rows: dict[str, Any]) -> None:
    print(f"\n{title}\n{'':12} {'ms':>9} {'x loop':>8} {'compile s':>10} {'cached s':>9} {'peak MiB':>9} {'GFLOP/s':>8}")
    for row, found in rows.items():
        rate = f"{found['operations'] / found['seconds'] / 1e9:8.0f}" if "operations" in found else ""
        compiled = f"{found['compile_cold']:10.1f} {found['compile_cached']:9.1f}" if found["compile_cold"] else " " * 20
        print(
            f"{row:12} {found['seconds'] * 1e3:9.1f} {found['times_reference']:8.2f} {compiled} {found['peak_mib']:9.0f} {rate}"
        )


def matrix_rate(kind: str) -> float:
    """Floating-point operations a second of large matrix products, the machine's own ceiling: on all cores, or on the GPU,
    where products of float32 are made in its shorter TF32, as those of all rows are."""
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == "cpu" else 8192
    one = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(kind))
    product = jax.jit(lambda x: x @ x)
    return 2 * size**3 / min(timed(lambda: product(one)) for _ in range(11))


if __name__ == "__main__":
    main()
