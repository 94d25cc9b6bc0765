"""Ways to take the meta-gradient of one task, as values for `Learner.task_gradient`.

`exact` and `stored` are the same numbers by two ways, of different memory and time, between which `auto` chooses; the others
are something else, by choice.
"""

from fewstep.gradients.evolution import evolution as evolution
from fewstep.gradients.exact import auto as auto
from fewstep.gradients.exact import exact as exact
from fewstep.gradients.exact import stored as stored
from fewstep.gradients.first_order import annealed as annealed
from fewstep.gradients.first_order import first_order as first_order
from fewstep.gradients.implicit import implicit as implicit
from fewstep.gradients.reptile import reptile as reptile
from fewstep.gradients.transforms import clipped as clipped
from fewstep.gradients.transforms import half_precision as half_precision
from fewstep.gradients.truncated import truncated as truncated
