"""fewstep list: problems, presets and variants, one line each."""

from __future__ import annotations

import json

from fewstep.cli.arguments import say
from fewstep.errors import InputError

MORE = {
    "training at more ways": ("images: --train-ways 20", "Snell et al. 2017, arXiv 1703.05175"),
    "varied training images": ("images: --variation photos", "Krizhevsky et al. 2012, NeurIPS 25"),
    "steps up the evidence": ("--adapter bayes-head --body-steps 2", "MacKay 1992, Neural Computation 4(3)"),
}
"""name -> (settings of `fewstep train`, source): what is no variant of MAML but belongs to the recipes"""
AFTERWARDS = {
    "leave-one-out steps": ("adapt --steps auto", "Stone 1974; in closed form, Cook 1977"),
    "split conformal intervals": ("predict --level 0.9", "Dunn et al. 2023, arXiv 1809.07441"),
    "calibrated probabilities": ("predict, of classes", "Guo et al. 2017, arXiv 1706.04599"),
    "prediction sets": ("predict --level 0.9, of images", "Fisch et al. 2021, arXiv 2102.08898"),
}
"""name -> (command and setting, source): what is done with a trained run"""


def main(argv: list[str]) -> int:
    from fewstep.application import presets, problems, unusable
    from fewstep.recipe.variants import VARIANTS, as_options

    if "-h" in argv or "--help" in argv:
        say("usage: fewstep list [--json]\n\nProblems, presets and variants.")
        return 0
    if unknown := set(argv) - {"--json"}:
        raise InputError(f"unrecognized options: {', '.join(sorted(unknown))}. See fewstep list --help.")
    if "--json" in argv:
        listed = {name: {preset: line for preset, (_, line) in known.items()} for name, known in presets().items()}
        variants = {name: {**variant._asdict(), "options": as_options(variant.settings)} for name, variant in VARIANTS.items()}
        more = {name: " | ".join(both) for name, both in {**MORE, **AFTERWARDS}.items()}
        print(json.dumps({"problems": listed, "variants": variants, "more": more}))
        return 0
    say("problems (fewstep train PROBLEM --preset NAME)")
    for name, kind in problems().items():
        say(f"  {name:<12} {kind.__doc__}")
        for preset, (_, line) in presets()[name].items():
            say(f"    {preset:<12} {line}")
    for reason in unusable().values():
        say(f"  {reason}")
    say("\nvariants (fewstep train PROBLEM --variant NAME,NAME)")
    for name, variant in VARIANTS.items():
        where = {None: "", True: "images: ", False: "not images: "}[variant.of_images]
        say(f"  {name:<21} {where}{variant.line} ({variant.source})")
        say(f"  {'':<21} = {' '.join(as_options(variant.settings))}")
    for title, known in (("further settings of fewstep train", MORE), ("with a trained run", AFTERWARDS)):
        say(f"\n{title}")
        for name, (how, paper) in known.items():
            say(f"  {name:<32} {how:<38} {paper}")
    return 0
