"""What tasks are like and what adaptation does to them, measured beside the comparison of methods.

Each probe is a function of (learner, meta-parameters, episodes, key), whose episodes lead with [tasks], and gives numbers
with 95 % intervals over tasks, and a sentence to each. What is measured of one task is a pure function, mapped over tasks
by one compiled program (measure.py); all that follows is NumPy on arrays that lead with [tasks] (jackknife.py)."""

from fewstep.compare.diagnostics.measure import Probe as Probe
from fewstep.compare.diagnostics.report import probe_all as probe_all
