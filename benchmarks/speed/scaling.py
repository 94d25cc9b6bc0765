"""What a meta-step would take on 8, 64 and 512 GPUs: the projections of docs/scaling.md.

python -m benchmarks.speed.scaling     # a moment: reads docs/records/speed/images_gpu.json

Measured: the seconds of a meta-step of Conv-4 on one GPU with 32 and with 256 tasks, through which a line is laid:
seconds = fixed + tasks · each. Not measured, but assumed, since it takes many GPUs: the one all-reduce of a meta-step, by
the bandwidths that makers give for nodes of eight H100, of which so much is reached as `REACHED` says. The outer step and
the drawing of tasks are in `fixed`, and every GPU does them for itself."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.records import RECORDS, Options, read, write

NODE = 8
"""GPUs of a node"""
WITHIN, BETWEEN = 450e9, 50e9
"""bytes a second and GPU, one way: NVLink 4 in a node, a 400 Gbit/s adapter for each GPU between nodes"""
REACHED = 0.5
"""part of these bandwidths that an all-reduce is assumed to reach"""
LATENCY, LATENCY_BETWEEN = 20e-6, 10e-6
"""seconds of the smallest all-reduce in a node, and of each doubling of the nodes on top"""
GPUS = (1, 8, 64, 512)
CASES = {
    "28 x 28, 1 step": {"filters": 64, "reduction": "stride", "image": (28, 28, 1)},
    "84 x 84, 5 steps": {"filters": 32, "reduction": "pool", "image": (84, 84, 3)},
}
BATCHES = (32, 256, 4096)


def main() -> None:
    parser = Options(__doc__, "speed/scaling.json")
    arguments = parser.parse_args()
    gpu = read(RECORDS / "speed/images_gpu.json")["cases"]
    record: dict[str, Any] = {"assumed": {"node": NODE, "within": WITHIN, "between": BETWEEN, "reached": REACHED}}
    record["assumed"] |= {"latency": LATENCY, "latency_between": LATENCY_BETWEEN}
    record["sums"] = {
        name: {"floats": floats, "seconds": {gpus: sum_seconds(4 * (floats + 2), gpus) for gpus in GPUS}}
        for name, floats in sizes().items()
    }
    record["cases"] = {name: projected(name, gpu) for name in CASES}
    write(arguments.out, record)
    print("\n".join(page(record)))


def sizes() -> dict[str, int]:
    """network -> how many numbers θ has."""
    import jax

    from fewstep.nn.conv4 import conv4
    from fewstep.nn.resnet12 import resnet12

    def count(network: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))

    found = {
        f"Conv-4, {name}": count(conv4(case["image"], 5, case["filters"], case["reduction"], "batch"))
        for name, case in CASES.items()
    }
    return {**found, "ResNet-12, 84 x 84": count(resnet12((84, 84, 3)))}


def line(name: str, gpu: dict[str, Any]) -> tuple[float, float]:
    """(seconds of a meta-step whatever its tasks, seconds of each task) on one GPU."""
    few, many = (gpu[title]["exact"]["seconds"] for title in (title_of(name, 32, gpu), f"{name}, 256 tasks"))
    each = (many - few) / (256 - 32)
    return few - 32 * each, each


def title_of(name: str, tasks: int, gpu: dict[str, Any]) -> str:
    """Of a case with so many tasks; the record leaves out a number that is the usual one."""
    return next(title for title in (f"{name}, {tasks} tasks", name) if title in gpu)


def sum_seconds(size: float, gpus: int) -> float:
    """One all-reduce of so many bytes: a part to each GPU of a node, its sum over nodes, and back."""
    if gpus == 1:
        return 0.0
    inside, nodes = min(gpus, NODE), -(-gpus // NODE)
    within = 2 * (inside - 1) / inside * size / (REACHED * WITHIN)
    between = 2 * (nodes - 1) / nodes * size / inside / (REACHED * BETWEEN)
    return LATENCY + within + LATENCY_BETWEEN * math.log2(nodes) + between


def projected(name: str, gpu: dict[str, Any]) -> dict[str, Any]:
    fixed, each = line(name, gpu)
    size = 4 * (sizes()[f"Conv-4, {name}"] + 2)

    def seconds(tasks: int, gpus: int) -> float:
        return fixed + each * -(-tasks // gpus) + sum_seconds(size, gpus)

    whole = {
        str(tasks): {
            str(gpus): {"seconds": seconds(tasks, gpus), "times": seconds(tasks, 1) / seconds(tasks, gpus)} for gpus in GPUS
        }
        for tasks in BATCHES
    }
    grown = {str(gpus): seconds(32, 1) / seconds(32 * gpus, gpus) for gpus in GPUS}
    return {
        "fixed_seconds": fixed,
        "seconds_of_a_task": each,
        "tasks_at_half_efficiency": fixed / each,
        "same_meta_batch": whole,
        "efficiency_at_32_tasks_a_gpu": grown,
    }


def page(record: dict[str, Any]) -> list[str]:
    """The tables of docs/scaling.md."""
    lines = ["| case | fixed, ms | each task, ms | half of the time is fixed at |", "|---|---|---|---|"]
    for name, case in record["cases"].items():
        told = f"{1e3 * case['fixed_seconds']:.3g} | {1e3 * case['seconds_of_a_task']:.3g}"
        lines.append(f"| {name} | {told} | {case['tasks_at_half_efficiency']:.0f} tasks a GPU |")
    lines += ["", "| case | tasks | " + " | ".join(f"{gpus} GPUs" for gpus in GPUS[1:]) + " |", "|---" * 5 + "|"]
    for name, case in record["cases"].items():
        for tasks, whole in case["same_meta_batch"].items():
            found = [f"{whole[str(gpus)]['times']:.1f} x, {1e3 * whole[str(gpus)]['seconds']:.1f} ms" for gpus in GPUS[1:]]
            lines.append(f"| {name} | {tasks} | " + " | ".join(found) + " |")
        grown = case["efficiency_at_32_tasks_a_gpu"]
        lines.append(f"| {name} | 32 a GPU | " + " | ".join(f"{100 * grown[str(gpus)]:.1f} %" for gpus in GPUS[1:]) + " |")
    lines += ["", "| one sum of θ | numbers | " + " | ".join(f"{gpus} GPUs, µs" for gpus in GPUS[1:]) + " |", "|---" * 5 + "|"]
    for name, entry in record["sums"].items():
        found = [f"{1e6 * entry['seconds'][gpus]:.0f}" for gpus in GPUS[1:]]
        lines.append(f"| {name} | {entry['floats']:,} | " + " | ".join(found) + " |")
    return lines


if __name__ == "__main__":
    main()
