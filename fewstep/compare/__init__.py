"""Is meta-learning worth it on these tasks? Methods are trained on the same tasks and compared; a verdict follows."""

from fewstep.compare.run import compare as compare
from fewstep.compare.run import resume as resume
