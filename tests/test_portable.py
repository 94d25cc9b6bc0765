"""fewstep on Windows and macOS: what only some systems have is taken away, and everything imports and trains."""

import os
import subprocess
import sys

WITHOUT = """
import os, shutil, signal, sys, warnings
import flax.nnx, jax, matplotlib.pyplot, optax, PIL.Image, polars, rich.progress, scipy.stats, tyro  # what they need is theirs
try:
    import gymnasium, mujoco, pandas, sklearn.ensemble, statsmodels.api
except ImportError:
    pass
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for place, names in {
    signal: ("SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "pthread_kill", "pthread_sigmask"),
    os: ("O_DIRECTORY", "fork", "geteuid", "getuid", "sched_getaffinity", "set_blocking", "sysconf", "uname"),
}.items():
    for name in names:
        if hasattr(place, name):
            delattr(place, name)
opened = os.open
def open_file(path, *arguments, **options):  # Windows opens no folders
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *arguments, **options)
os.open, shutil._use_fd_functions = open_file, False
warnings.simplefilter("ignore", UserWarning)  # of filelock, that it takes a file for a lock
"""
IMPORT_AND_TRAIN = """
import importlib, pkgutil
from pathlib import Path
import fewstep
for module in pkgutil.walk_packages(fewstep.__path__, "fewstep."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from fewstep import runs
from fewstep.errors import InputError
from fewstep.gradients.exact import device_memory
from fewstep.apps.sine.settings import Sine
from fewstep.runs.lock import run_lock
from fewstep.runs.lock import lock_owner
assert device_memory() > 0
settings = Sine(hidden=(4,), meta_steps=4, log_every=2, meta_batch_size=2, adaptation_steps=1, shots=3, queries=3)
directory = Path(sys.argv[1])
runs.train(settings, directory, quiet=True)
run = runs.open_run(directory)
run.params("last")
with run_lock(directory):
    assert lock_owner(directory).startswith(f"process {os.getpid()} on ")
    try:
        runs.resume(run, quiet=True)
        raise AssertionError("two processes train in one folder")
    except InputError as error:
        assert "is in use by process" in str(error)
assert lock_owner(directory) == ""
"""


def test_everything_imports_and_trains_where_a_system_lacks_what_unix_has(tmp_path):
    words = [sys.executable, "-c", WITHOUT + IMPORT_AND_TRAIN, str(tmp_path / "run")]
    found = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg"}, timeout=600)
    assert found.returncode == 0, found.stderr[-3000:]
    assert (tmp_path / "run" / "parameters.npz").is_file()
