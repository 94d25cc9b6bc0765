"""Ways to take the meta-gradient of one task (floor 1), as values for `Learner.task_gradient`.

The default stands in `fewstep.maml.task_gradient`: exact and second order, by reverse mode through the inner loop.
"""

from fewstep.gradients.clipped import clipped as clipped
from fewstep.gradients.first_order import first_order as first_order
