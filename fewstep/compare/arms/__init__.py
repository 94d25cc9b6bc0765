"""The arms of models that predict (floor 5), in the order in which they are told of. `Application.methods` is what is tried."""

from fewstep.compare.arms import classical, gaussian, learned, mixed
from fewstep.compare.arms.arm import AnyGround as AnyGround
from fewstep.compare.arms.arm import Arm as Arm
from fewstep.compare.arms.arm import Choice as Choice
from fewstep.compare.arms.arm import Fitted as Fitted
from fewstep.compare.arms.arm import Saved as Saved
from fewstep.compare.arms.arm import Work as Work

LEARNED: tuple[Arm, ...] = (
    learned.PRIOR,
    classical.CHANCE,
    learned.RIDGE,
    classical.NEAREST,
    classical.POOLED,
    gaussian.GAUSSIAN,
    mixed.MIXED,
    learned.SCRATCH,
    classical.BOOSTING,
    classical.TABPFN,
    learned.JOINT,
    learned.JOINT_PROTOTYPES,
    learned.JOINT_FINETUNED,
    learned.JOINT_RIDGE,
    learned.MAML,
    learned.BAYES_HEAD,
    learned.REPTILE,
    learned.FOMAML,
    learned.ANIL,
    learned.MAML_FROM_JOINT,
    learned.IN_CONTEXT,
)
"""An arm that follows another stands behind it."""
OF_ROWS = tuple(arm for arm in LEARNED if arm.rows)
