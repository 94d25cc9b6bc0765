"""What the machine can do at most: the product of two large float32 matrices, on all cores. Not a peer; run by speed/sine.py.

JAX's and, where installed, PyTorch's product are both tried, and the faster is timed. `run(n)` makes n products.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import jax
import jax.numpy as jnp

from benchmarks.peers.setting import Run, fastest

SIZE = 2048
OPERATIONS = 2 * SIZE**3


def versions() -> dict[str, str]:
    """The libraries whose product is tried."""
    return {name: version(name) for name in ("jax", "torch") if find_spec(name)}


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    try:
        import torch
    except ImportError:
        return jax_products()
    torch.set_num_threads(threads)
    return fastest([jax_products, partial(torch_products, torch)], n=2)


def jax_products() -> Run:
    a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
    product = jax.jit(jnp.matmul)

    def run(n: int) -> float:
        for _ in range(n):
            result = product(a, a).block_until_ready()
        return float(result[0, 0])

    return run


def torch_products(torch) -> Run:
    a = torch.randn(SIZE, SIZE)
    result = torch.empty(SIZE, SIZE)

    def run(n: int) -> float:
        for _ in range(n):
            torch.matmul(a, a, out=result)
        return float(result[0, 0])

    return run
