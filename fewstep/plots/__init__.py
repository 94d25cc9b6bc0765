"""Pictures of a run, from the files in its folder alone. Used by the commands train, resume and plot."""

from fewstep.plots.draw import draw as draw
