"""Run directories: made by `train`, opened by `open_run`; the same from Python and from the command."""

from fewstep.runs.config import settings_of as settings_of
from fewstep.runs.config import write_config as write_config
from fewstep.runs.lock import activity as activity
from fewstep.runs.lock import run_lock as run_lock
from fewstep.runs.run import Run as Run
from fewstep.runs.run import open_run as open_run
from fewstep.runs.train import is_trained as is_trained
from fewstep.runs.train import resume as resume
from fewstep.runs.train import train as train
from fewstep.storage.files import new_directory as new_directory
from fewstep.storage.files import write_json as write_json
