"""The applications that come with fewstep, each in a folder of its own. Nobody imports them: `fewstep.application`
finds them, and those of other packages, by their entry points."""
