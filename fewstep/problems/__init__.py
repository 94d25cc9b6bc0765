"""Particular Problems, each from a frozen settings dataclass (floor 3)."""

from fewstep.problems.images import Images as Images
from fewstep.problems.locomotion import LOCOMOTION as LOCOMOTION
from fewstep.problems.locomotion import CheetahDir as CheetahDir
from fewstep.problems.nav2d import Nav2d as Nav2d
from fewstep.problems.omniglot import Omniglot as Omniglot
from fewstep.problems.own_environment import OwnEnvironment as OwnEnvironment
from fewstep.problems.robot_faults import RobotFaults as RobotFaults
from fewstep.problems.sine import Sine as Sine
from fewstep.problems.table import Table as Table
from fewstep.problems.variants import VARIANTS as VARIANTS
from fewstep.problems.variants import with_variants as with_variants
