"""Networks that come with fewstep, each as a pair of pure functions, and operations that make any model's fast."""

from fewstep.nn.conv4 import conv4 as conv4
from fewstep.nn.fast_conv import fast_convolutions as fast_convolutions
from fewstep.nn.fast_pool import fast_pooling as fast_pooling
from fewstep.nn.mlp import GLOROT as GLOROT
from fewstep.nn.mlp import mlp as mlp
from fewstep.nn.resnet12 import resnet12 as resnet12
from fewstep.nn.set_network import read as read
from fewstep.nn.set_network import set_network as set_network
