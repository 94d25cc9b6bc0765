"""Pictures of a run, from the files in its folder alone (floor 4). Used by the commands train, resume and plot."""

from fewstep.plots.draw import draw as draw
