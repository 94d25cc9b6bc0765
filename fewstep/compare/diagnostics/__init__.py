"""What tasks are like and what adaptation does to them, measured beside the comparison of methods.

Each probe is a function of (learner, meta-parameters, episodes, key), whose episodes lead with [tasks], and returns numbers
with 95 % intervals over tasks and a sentence for each. The measurement of one task is a pure function, mapped over tasks by one
compiled program; statistics on the resulting arrays [tasks, ...] use NumPy (both in measure.py)."""

from fewstep.compare.diagnostics.measure import Probe as Probe
from fewstep.compare.diagnostics.report import probe_all as probe_all
