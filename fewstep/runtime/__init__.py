"""In a control loop (floor 4): a model that follows one machine, adapted to what it has just lived through, at fixed cost."""

from fewstep.runtime.follower import Follower as Follower
from fewstep.runtime.follower import open_follower as open_follower
