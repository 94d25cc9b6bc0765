"""Run directories (floor 4): made by `train`, opened by `open_run`; the same from Python and from the command."""

from fewstep.runs.config import settings_of as settings_of
from fewstep.runs.config import write_config as write_config
from fewstep.runs.files import new_directory as new_directory
from fewstep.runs.files import write_json as write_json
from fewstep.runs.lock import only_one as only_one
from fewstep.runs.run import Run as Run
from fewstep.runs.run import open_run as open_run
from fewstep.runs.state import going_on as going_on
from fewstep.runs.training import is_trained as is_trained
from fewstep.runs.training import resume as resume
from fewstep.runs.training import train as train
