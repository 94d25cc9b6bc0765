"""Networks that come with fewstep (floor 1), each as a pair of pure functions. None is needed: bring any model."""

from fewstep.nn.mlp import GLOROT as GLOROT
from fewstep.nn.mlp import mlp as mlp
