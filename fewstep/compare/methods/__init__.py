"""Methods for models that predict, in the order of reports. `Application.methods` selects from them."""

from fewstep.compare.methods import classical, gaussian_process, learned, mixed_effects
from fewstep.compare.methods.method import AnyBenchmark as AnyBenchmark
from fewstep.compare.methods.method import Choice as Choice
from fewstep.compare.methods.method import Fitted as Fitted
from fewstep.compare.methods.method import Method as Method
from fewstep.compare.methods.method import Saved as Saved
from fewstep.compare.methods.method import Work as Work

LEARNED: tuple[Method, ...] = (
    learned.PRIOR,
    classical.CHANCE,
    learned.RIDGE,
    classical.NEAREST,
    classical.POOLED,
    gaussian_process.GAUSSIAN,
    mixed_effects.MIXED,
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
"""A method comes after the one that it depends on."""
OF_ROWS = tuple(method for method in LEARNED if method.rows)
