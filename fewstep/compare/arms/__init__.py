"""The arms of a comparison (floor 5). `ARMS` is what `fewstep compare` tries, in the order in which it is told of them."""

from fewstep.compare.arms import classical, embeddings, gaussian, learned, mixed, policies
from fewstep.compare.arms.arm import AnyGround as AnyGround
from fewstep.compare.arms.arm import Arm as Arm
from fewstep.compare.arms.arm import Choice as Choice
from fewstep.compare.arms.arm import Fitted as Fitted
from fewstep.compare.arms.arm import Kind as Kind
from fewstep.compare.arms.arm import Saved as Saved
from fewstep.compare.arms.arm import Work as Work

ARMS: tuple[Arm, ...] = (
    learned.PRIOR,
    classical.CHANCE,
    learned.RIDGE,
    classical.NEAREST,
    embeddings.PROBE,
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
    *policies.POLICIES,
)
"""An arm that follows another stands behind it."""
