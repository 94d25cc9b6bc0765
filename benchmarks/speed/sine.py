"""How fast is one meta-step? fewstep beside its peers, on the same tasks, in one interleaved run. See README.md here.

    python -m benchmarks.speed.sine [--learn2learn CHECKOUT] [--tensorflow-python PATH] [--compile] [--only PEER ...]
                               [--quick] [--out FILE]

First all programs must give the same meta-loss and meta-gradient on one fixed meta-batch, and the same meta-loss after
ten meta-steps. Then bursts of all programs are timed in turn, round by round; each stands in the table with the thread
count at which it was fastest.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers import FIRST, LABELS
from benchmarks.peers.setting import operations
from benchmarks.records import Options, Worker, WorkerFailed, cores, median_ratio, say, write

ADAPTATION_STEPS = (1, 5)
SAMPLING = ("in", "out")
TOLERANCE = 1e-4
"""largest deviation from fewstep's meta-loss and meta-gradient, relative to the largest entry of each array"""
TOLERANCE_AFTER = 1e-3
"""the same for the meta-loss after `META_STEPS` meta-steps, over which roundings grow"""
META_STEPS = 10
CONTENDS = 4.0
"""a thread count goes into the rounds where a short trial finds it at most so many times slower than the best"""
CELLS = list(product(ADAPTATION_STEPS, SAMPLING))


class Peer(Worker):
    """One program in a process of its own (peers/worker.py), with `threads` threads or devices."""

    def __init__(self, peer: str, threads: int, options: argparse.Namespace):
        interpreter = options.tensorflow_python if peer == "tensorflow_loop" else sys.executable
        around = environment(threads, options.learn2learn)
        super().__init__("benchmarks.peers.worker", peer, str(threads), interpreter=interpreter, environment=around)
        self.peer, self.threads = peer, threads
        self.missing: str | None = None
        self.versions: dict[str, str] = {}

    def greet(self) -> None:
        """Waits until the program is imported, or known not to be installed."""
        hello = self.receive()
        self.missing, self.versions = hello.get("missing"), hello.get("versions", {})


def environment(threads: int, learn2learn: Path | None) -> dict[str, str]:
    """The CPU alone, and as many threads as asked for in each of the frameworks."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "NPROC": str(threads),  # XLA's thread pool
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }
    if learn2learn is not None:
        settings["LEARN2LEARN_CHECKOUT"] = str(learn2learn.resolve())
    return settings


@dataclass
class Entry:
    """A program at one thread count, in one cell of the table, and what was measured of it."""

    peer: str
    adaptation_steps: int
    sampling: str
    worker: Peer
    burst: int
    """meta-steps in a burst"""
    ms: list[float] = field(default_factory=list)
    """milliseconds per meta-step, one number a round"""

    def measure(self) -> None:
        request = {"adaptation_steps": self.adaptation_steps, "sampling": self.sampling, "n": self.burst}
        self.ms.append(1e3 * self.worker.ask("timed", **request)["seconds"] / self.burst)


def main() -> int:
    options = arguments()
    threads = sorted({1, min(4, cores()), cores()})
    peers = [peer for peer in LABELS if wanted(peer, options)]
    workers = {peer: [Peer(peer, count, options) for count in threads] for peer in peers}
    try:
        greet(workers)
        if missing(workers, FIRST):
            raise WorkerFailed(f"fewstep cannot be imported here: {missing(workers, FIRST)}")
        deviation, deviation_after = check(workers)
        entries = [entry for peer in peers if not missing(workers, peer) for entry in contenders(peer, workers, options)]
        stop_unused(workers, entries)
        ceiling = measure_rounds(entries, options)
        report = results(best(entries), workers, ceiling, (deviation, deviation_after))
    except WorkerFailed as failure:
        say(f"\n{failure}")
        return 1
    finally:
        for worker in (worker for several in workers.values() for worker in several):
            worker.stop()
    print(table(report))
    write(options.out, report)
    return 0


def arguments() -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument("--learn2learn", type=Path, help="a checkout of learn2learn, where it is not installed")
    parser.add_argument("--tensorflow-python", default=sys.executable, help="an interpreter that has TensorFlow")
    parser.add_argument("--compile", action="store_true", help="also PyTorch under torch.compile, which compiles for minutes")
    parser.add_argument("--only", nargs="+", choices=list(LABELS)[1:], help="fewstep beside these peers alone")
    parser.add_argument("--quick", action="store_true", help="5 rounds of short bursts instead of 9 of longer ones")
    options = parser.parse_args()
    options.rounds, options.seconds = (5, 0.3) if options.quick else (9, 0.5)
    return options


def wanted(peer: str, options: argparse.Namespace) -> bool:
    if options.only:
        return peer == FIRST or peer in options.only
    return peer != "torch_compiled" or options.compile


def greet(workers: dict[str, list[Peer]]) -> None:
    """Waits for all workers, and says which peers are here. They import side by side, and nothing is timed yet."""
    for peer, several in workers.items():
        for worker in several:
            worker.greet()
        first = several[0]
        say(f"{LABELS[peer]}: " + (first.missing or ", ".join(f"{name} {found}" for name, found in first.versions.items())))


def missing(workers: dict[str, list[Peer]], peer: str) -> str | None:
    return workers[peer][0].missing


def check(workers: dict[str, list[Peer]]) -> tuple[float, float]:
    """The largest deviations from fewstep on the fixed meta-batch. Raises `WorkerFailed` where one is beyond tolerance."""
    largest, largest_after = 0.0, 0.0
    for steps in ADAPTATION_STEPS:
        reference = workers[FIRST][0]
        expected = flat(reference.ask("gradient", adaptation_steps=steps))
        expected_after = reference.ask("loss_after", adaptation_steps=steps, meta_steps=META_STEPS)["loss"]
        for worker in (worker for several in workers.values() for worker in several if worker.missing is None):
            found = flat(worker.ask("gradient", adaptation_steps=steps))
            deviation = max(relative(a, b) for a, b in zip(found, expected, strict=True))
            found_after = worker.ask("loss_after", adaptation_steps=steps, meta_steps=META_STEPS)["loss"]
            after = relative(np.array(found_after), np.array(expected_after))
            say(f"  {LABELS[worker.peer]}, {steps} step(s), {worker.threads} thread(s): deviation {deviation:.1e}, {after:.1e}")
            if not (deviation <= TOLERANCE and after <= TOLERANCE_AFTER):
                raise WorkerFailed(
                    f"{LABELS[worker.peer]} computes something else with {steps} adaptation step(s): its meta-gradient "
                    f"deviates by {deviation:.1e} (at most {TOLERANCE:.0e}), its meta-loss after {META_STEPS} meta-steps "
                    f"by {after:.1e} (at most {TOLERANCE_AFTER:.0e})."
                )
            largest, largest_after = max(largest, deviation), max(largest_after, after)
    return largest, largest_after


def flat(answer: dict[str, Any]) -> list[np.ndarray]:
    return [np.array(answer["loss"]), *map(np.array, answer["gradients"])]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest expected entry; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def contenders(peer: str, workers: dict[str, list[Peer]], options: argparse.Namespace) -> list[Entry]:
    """An entry per cell and thread count, without those that a short trial finds far too slow."""
    entries = []
    for steps, sampling in CELLS:
        trials = [(trial(worker, steps, sampling), worker) for worker in workers[peer]]
        least = min(seconds for seconds, _ in trials)
        shown = ", ".join(f"{worker.threads} thread(s) {1e3 * seconds:.3f} ms" for seconds, worker in trials)
        say(f"  {LABELS[peer]}, {steps} step(s), sampling {sampling}: {shown}")
        for seconds, worker in trials:
            if seconds <= CONTENDS * least:
                entries.append(Entry(peer, steps, sampling, worker, max(1, round(options.seconds / seconds))))
    return entries


def best(entries: list[Entry]) -> list[Entry]:
    """For each program and cell the thread count with the least median time."""
    chosen: dict[tuple, Entry] = {}
    for entry in sorted(entries, key=lambda entry: median(entry.ms), reverse=True):
        chosen[entry.peer, entry.adaptation_steps, entry.sampling] = entry
    order = list(LABELS)
    return sorted(chosen.values(), key=lambda entry: (entry.adaptation_steps, entry.sampling, order.index(entry.peer)))


def trial(worker: Peer, steps: int, sampling: str) -> float:
    """Seconds per meta-step: the best of three calls of about 0.1 s, after the program is compiled and warm."""
    n = 2
    for _ in range(2):  # the first call compiles
        seconds = worker.ask("timed", adaptation_steps=steps, sampling=sampling, n=n)["seconds"]
    while seconds < 0.1:
        n = max(2 * n, int(0.1 * n / seconds))
        seconds = worker.ask("timed", adaptation_steps=steps, sampling=sampling, n=n)["seconds"]
    again = [worker.ask("timed", adaptation_steps=steps, sampling=sampling, n=n)["seconds"] for _ in range(2)]
    return min(seconds, *again) / n


def stop_unused(workers: dict[str, list[Peer]], entries: list[Entry]) -> None:
    used = {id(entry.worker) for entry in entries}
    for worker in (worker for several in workers.values() for worker in several):
        if id(worker) not in used:
            worker.stop()


def measure_rounds(entries: list[Entry], options: argparse.Namespace) -> tuple[float, list[str]]:
    """Times a burst of every entry in every round, starting elsewhere each time.

    Returns the machine's ceiling in GFLOP/s, and the libraries that tried to reach it.
    """
    # Entries of one cell stand side by side, so that a busy moment of the machine meets fewstep and peers alike.
    entries = sorted(entries, key=lambda entry: CELLS.index((entry.adaptation_steps, entry.sampling)))
    ceiling = Peer("ceiling", cores(), options)
    ceiling.greet()
    products = {"adaptation_steps": 0, "sampling": "out"}
    ceiling.ask("timed", n=4, **products)
    seconds = []
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        seconds.append(ceiling.ask("timed", n=4, **products)["seconds"] / 4)
        first = number * len(entries) // options.rounds
        for entry in entries[first:] + entries[:first]:
            entry.measure()
    ceiling.stop()
    # The best round, not the median: a ceiling that other work pulls down would flatter every share.
    return 2 * 2048**3 / min(seconds) / 1e9, list(ceiling.versions)


def results(
    entries: list[Entry],
    workers: dict[str, list[Peer]],
    ceiling: tuple[float, list[str]],
    deviations: tuple[float, float],
) -> dict:
    """All that was found, as the JSON file holds it."""
    gflops, tried = ceiling
    reference = {(entry.adaptation_steps, entry.sampling): entry.ms for entry in entries if entry.peer == FIRST}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    rows = []
    for entry in entries:
        versions |= entry.worker.versions
        cell = entry.adaptation_steps, entry.sampling
        alone = 1e3 * operations(entry.adaptation_steps) / (gflops * 1e9)
        rows.append(
            {
                "program": LABELS[entry.peer],
                "adaptation_steps": entry.adaptation_steps,
                "sampling": entry.sampling,
                "threads": entry.worker.threads,
                "ms_per_meta_step": median(entry.ms),
                "ratio_to_fewstep": median_ratio(entry.ms, reference[cell]),
                "operations_alone_ms": alone,
                "share_of_ceiling": alone / median(entry.ms),
                "burst": entry.burst,
                "ms_by_round": entry.ms,
            }
        )
    absent = {LABELS[peer]: several[0].missing for peer, several in workers.items() if several[0].missing is not None}
    return {
        "system": platform.platform(),
        "matrix_product_gflops": gflops,
        "matrix_product_tried": tried,
        "versions": versions,
        "meta_step_mflop": {str(steps): operations(steps) / 1e6 for steps in ADAPTATION_STEPS},
        "largest_deviation": {"meta_gradient": deviations[0], f"loss_after_{META_STEPS}_meta_steps": deviations[1]},
        "rows": rows,
        "not_installed": absent,
    }


def table(report: dict) -> str:
    """The report for people: a block per number of adaptation steps, sampling in and out side by side."""
    deviation = report["largest_deviation"]
    lines = [
        "",
        f"{cores()} core(s): {report['matrix_product_gflops']:.0f} GFLOP/s in a float32 product "
        f"(best of {', '.join(report['matrix_product_tried'])})",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"Largest deviation from fewstep: {deviation['meta_gradient']:.1e} in meta-loss and meta-gradient, "
        f"{deviation[f'loss_after_{META_STEPS}_meta_steps']:.1e} in the meta-loss after {META_STEPS} meta-steps",
    ]
    for steps in ADAPTATION_STEPS:
        lines += block(report, steps)
    lines += ["", "ms: median per meta-step. x: median ratio to fewstep. share: of the product's rate. thr: threads."]
    return "\n".join(lines)


def block(report: dict, steps: int) -> list[str]:
    rows = {(row["program"], row["sampling"]): row for row in report["rows"] if row["adaptation_steps"] == steps}
    mflop = report["meta_step_mflop"][str(steps)]
    alone = next(iter(rows.values()))["operations_alone_ms"]
    heading = "".join(f"{name:>9}{'x':>8}{'share':>8}{'thr':>5}" for name in ("in, ms", "out, ms"))
    lines = ["", f"{steps} adaptation step(s): {mflop:.1f} MFLOP, alone {alone:.3f} ms", f"{'sampling':<32}{heading}"]
    for label in LABELS.values():
        if label in report["not_installed"]:
            lines.append(f"{label:<32}  not installed ({report['not_installed'][label]})")
        elif (label, "in") in rows:
            lines.append(f"{label:<32}" + "".join(shown(rows[label, sampling]) for sampling in SAMPLING))
    return lines


def shown(row: dict) -> str:
    ratio, share = row["ratio_to_fewstep"], 100 * row["share_of_ceiling"]
    return f"{row['ms_per_meta_step']:9.3f}{ratio:8.2f}{share:7.1f}%{row['threads']:5d}"


if __name__ == "__main__":
    sys.exit(main())
