"""fewstep list: problems, presets and variants, one line each (floor 5)."""

from __future__ import annotations

import json

from fewstep.cli.arguments import say
from fewstep.errors import BadInput

VARIANTS = {
    "MAML": ("default: exact, second order", "Finn et al. 2017, arXiv 1703.03400"),
    "first-order MAML": ("--first-order", "Finn et al. 2017, section 5.2"),
    "Meta-SGD": ("--inner-optimizer meta-sgd", "Li et al. 2017, arXiv 1707.09835"),
    "Meta-Curvature": ("--inner-optimizer meta-curvature", "Park & Oliva 2019, arXiv 1902.03356"),
    "Bayesian last layer": ("--adapter bayes-head", "Harrison et al. 2018 (ALPaCA), arXiv 1807.08912"),
    "multi-step loss": ("--multi-step 0.3", "Antoniou et al. 2019 (MAML++), arXiv 1810.09502"),
}


def main(argv: list[str]) -> int:
    from fewstep.problems import PRESETS, PROBLEMS

    if "-h" in argv or "--help" in argv:
        say("usage: fewstep list [--json]\n\nProblems, presets and variants, one line each.")
        return 0
    if unknown := set(argv) - {"--json"}:
        raise BadInput(f"unrecognized options: {', '.join(sorted(unknown))}. See fewstep list --help.")
    if "--json" in argv:
        presets = {name: {preset: line for preset, (_, line) in known.items()} for name, known in PRESETS.items()}
        print(json.dumps({"problems": presets, "variants": {name: " | ".join(both) for name, both in VARIANTS.items()}}))
        return 0
    say("problems (fewstep train PROBLEM --preset NAME)")
    for name, kind in PROBLEMS.items():
        say(f"  {name:<10} {kind.__doc__}")
        for preset, (_, line) in PRESETS[name].items():
            say(f"    {preset:<10} {line}")
    say("\nvariants (settings of fewstep train)")
    for name, (how, paper) in VARIANTS.items():
        say(f"  {name:<20} {how:<32} {paper}")
    return 0
