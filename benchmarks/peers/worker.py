"""One program in a process of its own, so that no framework's threads or settings reach another's. Started by speed/sine.py."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

from benchmarks.records import channel, serve


def main(peer: str, threads: int) -> None:
    answer = channel()
    try:
        module = importlib.import_module(f"benchmarks.peers.{peer}")
    except ImportError as error:
        traceback.print_exc()
        return answer(missing=str(error))
    answer(versions=module.versions())
    serve(handler(module, threads), answer)


def handler(module, threads: int):
    """`handle(do, adaptation_steps, ...) -> answer`; programs are built when first asked for, and kept."""
    programs: dict[tuple[int, str], Any] = {}

    def gradient(adaptation_steps: int) -> dict[str, Any]:
        loss, gradients = module.meta_gradient(adaptation_steps, threads)
        return {"loss": loss, "gradients": [array.tolist() for array in gradients]}

    def loss_after(adaptation_steps: int, meta_steps: int) -> dict[str, Any]:
        run = programs[adaptation_steps, "out"] = module.program(adaptation_steps, "out", threads)
        if meta_steps > 1:
            run(meta_steps - 1)
        return {"loss": run(1)}

    def timed(adaptation_steps: int, sampling: str, n: int) -> dict[str, Any]:
        if (adaptation_steps, sampling) not in programs:
            programs[adaptation_steps, sampling] = module.program(adaptation_steps, sampling, threads)
        run = programs[adaptation_steps, sampling]
        return {"seconds": timed(lambda: run(n))}

    actions = {"gradient": gradient, "loss_after": loss_after, "timed": timed}
    return lambda do, **request: actions[do](**request)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
