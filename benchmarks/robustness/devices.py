"""How far the meta-losses of one training differ between one device and several: docs/scaling.md.

python -m benchmarks.robustness.devices # some four minutes 200 meta-steps of sine waves on 1, 2 and 8 devices, as which
one processor is shown: with one adaptation step and with the five of the default recipe, in float32 and in float64. The
tasks are the same; what differs is the order in which sums are taken."""

from __future__ import annotations

import json
import os
from typing import Any

from benchmarks.records import Options, write

STEPS, COUNTS = 200, (2, 8)
RECIPES: dict[str, dict[str, Any]] = {"one step": {"adaptation_steps": 1}, "five steps": {}}


def main() -> None:
    parser = Options(__doc__, "robustness/devices.json")
    arguments = parser.parse_args()
    os.environ |= {"JAX_NUM_CPU_DEVICES": str(max(COUNTS)), "JAX_PLATFORMS": "cpu"}
    from fewstep.cli.arguments import prepare_jax

    prepare_jax()
    found = [compared(name, precision) for name in RECIPES for precision in ("float32", "float64")]
    record = {"steps": STEPS, "curves": [each for several in found for each in several]}
    write(arguments.out, record)
    print(json.dumps(record, indent=1))


def compared(name: str, precision: str) -> list[dict[str, Any]]:
    import jax
    import numpy as np

    from fewstep.apps.sine.settings import Sine
    from fewstep.core import maml
    from fewstep.training.chunk import compiled_chunk
    from fewstep.training.devices import replicate, task_mesh

    def curve(count: int) -> np.ndarray:
        problem, mesh = Sine(meta_steps=STEPS, **RECIPES[name]).build(0), task_mesh(count)
        run = compiled_chunk(problem, mesh)
        params = jax.tree.map(lambda leaf: leaf.astype(precision), problem.init(jax.random.key(0)))
        state, losses = replicate(maml.init(problem.outer_optimizer, params), mesh), []
        for _ in range(STEPS):
            state, chunk = run(state, jax.random.key(1), 1)
            losses.append(float(chunk.meta_loss))
        return np.array(losses)

    with jax.enable_x64(precision == "float64"):
        one = curve(1)
        several = {count: np.abs(curve(count) / one - 1) for count in COUNTS}
    return [
        {
            "recipe": name,
            "precision": precision,
            "devices": count,
            "largest_difference": float(f"{apart.max():.3g}"),
            "meta_steps_within_1e-5": int(np.argmax(apart > 1e-5)) if apart.max() > 1e-5 else STEPS,
        }
        for count, apart in several.items()
    ]


if __name__ == "__main__":
    main()
