"""Particular Problems, each from a frozen settings dataclass (floor 3). `PROBLEMS` is what the command can train."""

from fewstep.problems.images import PRESETS as IMAGES_PRESETS
from fewstep.problems.images import Images
from fewstep.problems.locomotion import LOCOMOTION
from fewstep.problems.locomotion import PRESETS as LOCOMOTION_PRESETS
from fewstep.problems.locomotion import CheetahDir as CheetahDir
from fewstep.problems.nav2d import PRESETS as NAV2D_PRESETS
from fewstep.problems.nav2d import Nav2d
from fewstep.problems.omniglot import PRESETS as OMNIGLOT_PRESETS
from fewstep.problems.omniglot import Omniglot
from fewstep.problems.own_environment import PRESETS as OWN_ENVIRONMENT_PRESETS
from fewstep.problems.own_environment import OwnEnvironment
from fewstep.problems.robot_faults import PRESETS as ROBOT_FAULTS_PRESETS
from fewstep.problems.robot_faults import RobotFaults
from fewstep.problems.sine import PRESETS as SINE_PRESETS
from fewstep.problems.sine import Sine
from fewstep.problems.table import PRESETS as TABLE_PRESETS
from fewstep.problems.table import Table
from fewstep.problems.variants import VARIANTS as VARIANTS
from fewstep.problems.variants import with_variants as with_variants

PROBLEMS = {
    "sine": Sine,
    "table": Table,
    "images": Images,
    "omniglot": Omniglot,
    "robot-faults": RobotFaults,
    "nav2d": Nav2d,
    **LOCOMOTION,
    "rl": OwnEnvironment,
}
"""name -> settings dataclass with `.build(seed) -> Problem`"""

PRESETS = {
    "sine": SINE_PRESETS,
    "table": TABLE_PRESETS,
    "images": IMAGES_PRESETS,
    "omniglot": OMNIGLOT_PRESETS,
    "robot-faults": ROBOT_FAULTS_PRESETS,
    "nav2d": NAV2D_PRESETS,
    **LOCOMOTION_PRESETS,
    "rl": OWN_ENVIRONMENT_PRESETS,
}
"""name -> {preset: (settings, one line on what it is for)}"""
