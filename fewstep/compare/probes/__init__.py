"""What tasks are like and what adaptation does to them, measured beside the comparison of arms (floor 5).

Each probe is a function of (learner, meta-parameters, episodes, key), whose episodes lead with [tasks], and gives numbers with
95 % intervals over tasks, and a sentence to each. What is measured of one task is a pure function, mapped over tasks by one
compiled program (measure.py); all that follows is NumPy on arrays that lead with [tasks] (jackknife.py).
"""

from fewstep.compare.probes.every import probe_all as probe_all
from fewstep.compare.probes.measure import Probe as Probe
