"""Settings and fixtures of the whole suite: strict JAX, two CPU devices, float64 on demand, one compilation cache."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

# These must stand before JAX is imported. xdist workers and the commands that tests start inherit them.
OWN_CACHE = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="fewstep-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", OWN_CACHE or "")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import pytest  # noqa: E402

from fewstep.training import jit  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

QUICKLY_COMPILED = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
QUICKLY_COMPILED.append("--xla_cpu_parallel_codegen_split_count=1")  # 32 pieces of a program are 32 times LLVM's own start
if jax.__version_info__ < (0, 11):
    QUICKLY_COMPILED.append("--xla_cpu_use_fusion_emitters=false")  # later versions have no other way, and end at the flag

TESTS = Path(__file__).resolve().parent
DATA = TESTS.parents[1] / "shared" / "data"


def pytest_configure(config):
    # Compiling is most of what the fast tests do: without LLVM's optimizations and MLIR they take less than half of the time.
    if config.getoption("markexpr") != "slow":  # long trainings are worth it
        os.environ.setdefault("XLA_FLAGS", " ".join(QUICKLY_COMPILED))
    gc.set_threshold(20_000, 20, 100)  # a trace makes millions of objects and next to no cycles
    # Two workers may write one entry of the cache at once; a reader then compiles anew and warns.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache:UserWarning")


def pytest_unconfigure(config):
    """The process that made the cache folder removes it."""
    if OWN_CACHE:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


# fmt: off
LONGEST = (
    "apps/tables/test_estimators", "cli/test_cli", "runs/test_runs", "supervised/test_adapted",
    "compare/test_comparison", "gradients/test_gradients", "apps/policies/test_adapted", "fuzz/test_fuzz_flags",
    "fuzz/test_fuzz_tables", "apps/images/test_cli", "nn/test_fast_conv", "apps/policies/test_gymnasium",
    "apps/images/test_data", "training/test_devices", "faults/test_kills", "apps/policies/test_compare",
    "plots/test_draw", "variants/test_partial", "supervised/test_evaluation", "training/test_rate_search",
    "recipe/test_settings", "apps/policies/test_nav2d", "compare/test_diagnostics", "apps/images/test_prefetch",
    "training/test_loop", "core/test_maml",
)
# fmt: on
"""files that take the most processor time, in this order: they are begun first, so that no worker ends long after the others"""


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(TESTS).with_suffix("").as_posix(), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files go to one worker, so that a run trained once serves all tests of its file."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # by `LONGEST`, not by the number of tests
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What a file compiled goes with it: each program maps a few pieces of memory, Linux allows a process 65,530 of them, and a
    worker that has run most of the files ends in a segmentation fault."""
    yield
    jit.forget()
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def float64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of real tables beside the repository; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip("needs the folder ../shared/data beside the repository, which is absent here")
    return DATA


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the command in this process and in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.setattr("fewstep.training.devices.use_cpu_cores", lambda: None)  # this process has its two devices already
    monkeypatch.chdir(tmp_path)

    from fewstep import cli

    def run(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run
