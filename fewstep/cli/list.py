"""fewstep list: problems, presets and variants, one line each (floor 5)."""

from __future__ import annotations

import json

from fewstep.cli.arguments import say
from fewstep.errors import BadInput

VARIANTS = {
    "MAML": ("default: exact, second order", "Finn et al. 2017, arXiv 1703.03400"),
    "first-order MAML": ("--meta-gradient first-order", "Finn et al. 2017, section 5.2"),
    "Meta-SGD": ("--inner-optimizer meta-sgd", "Li et al. 2017, arXiv 1707.09835"),
    "Meta-Curvature": ("--inner-optimizer meta-curvature", "Park & Oliva 2019, arXiv 1902.03356"),
    "learned rates by layer and step": ("--inner-optimizer lslr", "Antoniou et al. 2019 (MAML++), arXiv 1810.09502"),
    "first order, then exact": ("--first-order-until 0.3", "Antoniou et al. 2019 (MAML++), arXiv 1810.09502"),
    "averaged parameters": ("--average 0.995", "Polyak & Juditsky 1992, SIAM J. Control Optim. 30(4)"),
    "shared head": ("images: --head shared", "Ye & Chao 2022 (UNICORN-MAML), arXiv 2106.16245"),
    "zero head": ("images: --head zero", "Kao et al. 2022, arXiv 2106.15367"),
    "prototype head": ("images: --head prototype", "Triantafillou et al. 2020 (Proto-MAML), arXiv 1903.03096"),
    "joint training first": ("images: --joint-steps 3000", "Chen et al. 2021 (Meta-Baseline), arXiv 2003.04390"),
    "training at more ways": ("images: --train-ways 20", "Snell et al. 2017, arXiv 1703.05175"),
    "varied training images": ("images: --variation photos", "Krizhevsky et al. 2012, NeurIPS 25"),
    "multi-step loss": ("--multi-step 0.3", "Antoniou et al. 2019 (MAML++), arXiv 1810.09502"),
    "Bayesian last layer": ("--adapter bayes-head", "Harrison et al. 2018 (ALPaCA), arXiv 1807.08912"),
    "classes by least squares": ("--adapter bayes-head", "Bertinetto et al. 2019 (R2-D2), arXiv 1805.08136"),
    "steps up the evidence": ("--adapter bayes-head --body-steps 2", "MacKay 1992, Neural Computation 4(3)"),
}
"""name -> (settings of `fewstep train`, source)"""
AFTERWARDS = {
    "leave-one-out steps": ("adapt --steps auto", "Stone 1974; in closed form, Cook 1977"),
    "split conformal intervals": ("predict --level 0.9", "Dunn et al. 2023, arXiv 1809.07441"),
    "calibrated probabilities": ("predict, of classes", "Guo et al. 2017, arXiv 1706.04599"),
    "prediction sets": ("predict --level 0.9, of images", "Fisch et al. 2021, arXiv 2102.08898"),
}
"""name -> (command and setting, source): what is done with a trained run"""


def main(argv: list[str]) -> int:
    from fewstep.problems import PRESETS, PROBLEMS

    if "-h" in argv or "--help" in argv:
        say("usage: fewstep list [--json]\n\nProblems, presets and variants, one line each.")
        return 0
    if unknown := set(argv) - {"--json"}:
        raise BadInput(f"unrecognized options: {', '.join(sorted(unknown))}. See fewstep list --help.")
    if "--json" in argv:
        presets = {name: {preset: line for preset, (_, line) in known.items()} for name, known in PRESETS.items()}
        print(
            json.dumps(
                {"problems": presets, "variants": {name: " | ".join(both) for name, both in {**VARIANTS, **AFTERWARDS}.items()}}
            )
        )
        return 0
    say("problems (fewstep train PROBLEM --preset NAME)")
    for name, kind in PROBLEMS.items():
        say(f"  {name:<10} {kind.__doc__}")
        for preset, (_, line) in PRESETS[name].items():
            say(f"    {preset:<10} {line}")
    for title, known in (("variants (settings of fewstep train)", VARIANTS), ("with a trained run", AFTERWARDS)):
        say(f"\n{title}")
        for name, (how, paper) in known.items():
            say(f"  {name:<32} {how:<38} {paper}")
    return 0
