"""Is meta-learning worth it on these tasks? Methods trained on the same tasks, compared, and a verdict."""

from fewstep.compare.run import compare as compare
from fewstep.compare.run import resume as resume
