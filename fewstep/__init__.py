"""fewstep: gradient-based meta-learning on JAX. Learn a starting point, adapt in a few steps.

The public names, in reading order. Nothing heavy is imported before it is used.
"""

import fewstep.command  # noqa: F401, before jax is loaded
from fewstep.core.maml import Learner as Learner
from fewstep.core.maml import MetaState as MetaState
from fewstep.core.maml import adapt as adapt
from fewstep.core.maml import adaptation_path as adaptation_path
from fewstep.core.maml import adaptation_step as adaptation_step
from fewstep.core.maml import finite_meta_gradient as finite_meta_gradient
from fewstep.core.maml import finite_tasks as finite_tasks
from fewstep.core.maml import init as init
from fewstep.core.maml import meta_gradient as meta_gradient
from fewstep.core.maml import meta_step as meta_step
from fewstep.core.maml import task_gradients as task_gradients
from fewstep.core.maml import task_loss as task_loss
from fewstep.core.partition import combine as combine
from fewstep.core.partition import partition as partition
from fewstep.core.types import Episode as Episode
from fewstep.core.types import Examples as Examples
from fewstep.core.types import MetaParams as MetaParams
from fewstep.core.types import Network as Network
from fewstep.errors import FewstepError as FewstepError
from fewstep.errors import InputError as InputError
from fewstep.errors import TrainingError as TrainingError
from fewstep.version import __version__ as __version__


def __getattr__(name: str):
    """Loaded when they are asked for: `MetaRegressor` and `MetaClassifier`, which bring scikit-learn; what is seldom used."""
    if name in ("MetaRegressor", "MetaClassifier"):
        from fewstep.apps.tables import estimators

        return getattr(estimators, name)
    if name == "check_meta_gradient":
        from fewstep.gradients.check import check_meta_gradient

        return check_meta_gradient
    if name == "estimate":
        from fewstep.training.cost import estimate

        return estimate
    raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
