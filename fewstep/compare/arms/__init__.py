"""The arms of a comparison (floor 5). `ARMS` is what `fewstep compare` tries, in the order in which it is told of them."""

from fewstep.compare.arms import classical, gaussian, mixed, networks
from fewstep.compare.arms.arm import Arm as Arm
from fewstep.compare.arms.arm import Choice as Choice
from fewstep.compare.arms.arm import Fitted as Fitted
from fewstep.compare.arms.arm import Kind as Kind
from fewstep.compare.arms.arm import Saved as Saved
from fewstep.compare.arms.arm import Work as Work

ARMS: tuple[Arm, ...] = (
    networks.PRIOR,
    classical.CHANCE,
    networks.RIDGE,
    classical.NEAREST,
    gaussian.GAUSSIAN,
    mixed.MIXED,
    networks.SCRATCH,
    classical.BOOSTING,
    classical.TABPFN,
    networks.JOINT,
    networks.JOINT_PROTOTYPES,
    networks.JOINT_FINETUNED,
    networks.JOINT_RIDGE,
    networks.MAML,
    networks.BAYES_HEAD,
    networks.REPTILE,
    networks.FOMAML,
    networks.ANIL,
    networks.MAML_FROM_JOINT,
    networks.IN_CONTEXT,
)
"""An arm that follows another stands behind it."""
