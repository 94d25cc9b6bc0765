"""The applications that come with fewstep, one package each.

No module imports them: `fewstep.application` finds them, and those of other packages, by their entry points.
"""
