"""fewstep gather RUN --out FILE: what a run's robots live through while its model drives them, to be trained on (floor 6)."""

from __future__ import annotations

import json as to_json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.arguments import prepare_jax, say
from fewstep.cli.writing import new_file
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Gather:
    """Drive all robots of a run of robot-faults by its model, each struck by its fault, and write what they lived through, with
    what the run was trained on, as data of the next run: fewstep train robot-faults --data FILE."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """the file to write: .npz"""
    seed: int = 0
    """decides where the robots begin and what is tried"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        out = new_file(self.out, (".npz",))
        if not out.parent.is_dir():
            raise BadInput(f"--out {out}: there is no folder {out.parent}.")
        if self.seed < 0:
            raise BadInput(f"--seed should be at least 0, got {self.seed}.")
        prepare_jax()
        from fewstep import runs
        from fewstep.cli.robot_play import follower_of
        from fewstep.runtime.fleet import with_more
        from fewstep.tasks.experience_file import write_experience

        run = runs.open_run(self.run)
        follower, settings = follower_of(run)
        found = with_more(follower, settings, run.config["seed"], self.seed)
        write_experience(out, found.parts)
        told = {
            "file": str(out),
            "robots": {part: len(experience.actions) for part, experience in found.parts.items()},
            "runs_of_each": found.parts["train"].actions.shape[1],
            "left_out": found.left_out,
            "model_error": found.error,
        }
        if self.json:
            print(to_json.dumps(told))
            return 0
        say(f"model error while driving: {found.error:.3f}; it was asked about states that it had not met")
        if found.left_out:
            say(f"{found.left_out} robots are left out, since their simulation runs away")
        say(f"written: {out}, {told['runs_of_each']} runs of each of {sum(told['robots'].values())} robots")
        say(f"next: fewstep train robot-faults --data {out} --robot {settings.robot} --family {settings.family}")
        return 0
