"""The outer loop, its checkpoints, its devices and its log. Place: fewstep/training, without evaluate."""

import functools
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import (
    assert_close,
    assert_same_bits,
    bowl_closed_form,
    bowl_loss,
    bowl_problem,
    draw_bowls,
    farthest,
    last,
    plain,
    slow_but,
    state_of,
)

from fewstep import Episode, InputError, Learner, TrainingError, init, meta_step, task_loss
from fewstep.apps.sine.settings import Sine
from fewstep.core.maml import task_gradient
from fewstep.core.problem import Splits
from fewstep.core.tasks import TaskFamily
from fewstep.supervised.training import SupervisedTrainer
from fewstep.training import devices, jit, loop
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.chunk import compiled_chunk
from fewstep.training.devices import task_mesh
from fewstep.training.progress import Progress, read_metrics
from fewstep.training.signals import StopSignals, terminated_as_interrupted

TRAIN_KEY = jax.random.key(5)


def gradient_at(problem, devices, params, step):
    """(meta-loss, meta-gradient) of one meta-step of the compiled loop: plain descent at rate 1 shows the gradient."""
    descent = optax.sgd(1.0)
    state = init(descent, params)._replace(step=jnp.asarray(step, jnp.int32))
    run = compiled_chunk(replace(problem, outer_optimizer=descent), task_mesh(devices))
    after, chunk = run(state, TRAIN_KEY, 1)
    return chunk.meta_loss, jax.tree.map(lambda before, after: before - after, params, after.params)


def contents(directory):
    """Every file under a folder with its bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """40 meta-steps without a stop."""
    directory = tmp_path_factory.mktemp("whole")
    loop.train(bowl_problem(), directory, seed=3, quiet=True)
    return directory


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """20 of 40 meta-steps."""
    directory = tmp_path_factory.mktemp("half")
    loop.train(bowl_problem(), directory, seed=3, meta_steps=20, quiet=True)
    return directory


def assert_same_run(directory, whole):
    """The same parameters, optimizer state and step to the last bit, and the same log but for the clock."""
    (state, record), (expected, expected_record) = last(directory, bowl_problem()), last(whole, bowl_problem())
    assert_same_bits(state, expected)
    assert record["validation"] == expected_record["validation"]
    lines, expected_lines = (read_metrics(folder / "metrics.jsonl") for folder in (directory, whole))
    assert [line["meta_step"] for line in lines] == [line["meta_step"] for line in expected_lines]
    # The log's means are summed call by call, and calls differ in length from run to run: equal but for rounding.
    for name in ("meta_loss", "gradient_norm", "outer_rate"):
        np.testing.assert_allclose([line[name] for line in lines], [line[name] for line in expected_lines], rtol=2e-5)


def test_products_on_a_gpu_are_left_to_its_library_unless_the_user_chose_otherwise(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    devices.use_gpu_libraries()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"
    monkeypatch.setattr(devices, "find_spec", lambda name: name == "jax_cuda13_plugin" or None)
    devices.use_gpu_libraries()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_gpu_enable_triton_gemm=false"
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    devices.use_gpu_libraries()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_enable_triton_gemm=true"


def test_the_state_after_training_equals_a_python_loop_of_meta_steps(whole):
    problem = bowl_problem()
    init_key, train_key, _ = jax.random.split(jax.random.key(3), 3)
    state = init(problem.outer_optimizer, problem.init(init_key))

    @jax.jit
    def one_meta_step(state):
        pairs = [jax.random.split(jax.random.fold_in(jax.random.fold_in(train_key, state.step), task)) for task in range(4)]
        episodes = [problem.splits.train.sample_episode(pair[0]) for pair in pairs]
        learn = functools.partial(task_gradient, problem.learner, state.params)
        measured = [learn(episode, pair[1], state.step) for episode, pair in zip(episodes, pairs, strict=True)]
        loss, gradient = jax.tree.map(lambda *leaves: sum(leaves) / 4, *measured)
        return meta_step(problem.outer_optimizer, state, gradient), loss

    losses = []
    for _ in range(40):
        state, loss = one_meta_step(state)
        losses.append(float(loss))
    trained, _ = last(whole, problem)
    assert_close(trained.params, state.params, rtol=1e-5)
    assert int(trained.step) == 40
    logged = [line["meta_loss"] for line in read_metrics(whole / "metrics.jsonl")]
    np.testing.assert_allclose(logged, np.mean(np.reshape(losses, (4, 10)), axis=1), rtol=1e-4)


def test_another_seed_gives_another_run(whole, tmp_path):
    loop.train(bowl_problem(), tmp_path / "run", seed=4, quiet=True)
    assert farthest(last(tmp_path / "run", bowl_problem())[0].params, last(whole, bowl_problem())[0].params) > 0.01


def test_a_run_compiles_its_program_once(tmp_path, monkeypatch):
    known = {}
    monkeypatch.setattr(jit, "_programs", known)
    loop.train(bowl_problem(), tmp_path, seed=3, meta_steps=20, quiet=True)
    first = dict(known)
    loop.train(bowl_problem(), tmp_path, seed=3, resume=True, quiet=True)
    assert known == first
    assert [program._cache_size() for program in known.values()] == [1, 1]  # meta-steps, and validation


def test_trainings_of_one_problem_are_traced_once_and_are_those_of_problems_of_their_own(tmp_path, monkeypatch):
    traced, trace = [], jit._trace
    monkeypatch.setattr(jit, "_trace", lambda *given: traced.append(given) or trace(*given))
    problem = bowl_problem()
    loop.train(problem, tmp_path / "3", seed=3, quiet=True)
    first = len(traced)
    loop.train(problem, tmp_path / "4", seed=4, quiet=True)
    assert first and len(traced) == first
    loop.train(bowl_problem(), tmp_path / "alone", seed=4, quiet=True)
    assert len(traced) == 2 * first
    assert_same_run(tmp_path / "4", tmp_path / "alone")
    known = weakref.ref(problem)
    del problem
    traced.clear()
    gc.collect()
    assert known() is None  # its data and its programs go with it


def test_every_seed_of_the_sine_problem_is_the_same_program(monkeypatch):
    known = {}
    monkeypatch.setattr(jit, "_programs", known)
    for seed in (0, 1):
        problem = Sine(hidden=(2,), adaptation_steps=1).build(seed)
        compiled_chunk(problem, task_mesh(1))(state_of(problem), jax.random.key(seed), 1)
    assert [program._cache_size() for program in known.values()] == [1]


def test_training_goes_on_from_a_checkpoint_bit_for_bit(whole, half, tmp_path):
    shutil.copytree(half, tmp_path / "run")
    assert int(last(tmp_path / "run", bowl_problem())[0].step) == 20
    loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert_same_run(tmp_path / "run", whole)


STOPPING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture
def heeded():
    """SIGHUP as where no `nohup` has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOPPING)
def test_a_run_stopped_between_two_lines_of_its_log_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, heeded, number):
    before = [signal.getsignal(number) for number in STOPPING]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Progress, "advance", lambda self, done: signal.raise_signal(number))
        with pytest.raises(loop.Interrupted):
            loop.train(bowl_problem(), tmp_path, seed=3, quiet=True)
    stopped = int(last(tmp_path, bowl_problem())[0].step)
    assert 0 < stopped < 10
    assert [signal.getsignal(number) for number in STOPPING] == before
    loop.train(bowl_problem(), tmp_path, seed=3, resume=True, quiet=True)
    assert_same_run(tmp_path, whole)


def test_a_run_under_nohup_outlives_its_terminal(whole, tmp_path, monkeypatch, heeded):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(loop.Progress, "advance", lambda self, done: signal.raise_signal(signal.SIGHUP))
    loop.train(bowl_problem(), tmp_path, seed=3, quiet=True)
    assert_same_run(tmp_path, whole)


def test_resuming_a_finished_run_changes_nothing(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert_same_run(tmp_path / "run", whole)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_what_was_logged_after_the_checkpoint_is_logged_once_only(whole, half, tmp_path):
    shutil.copytree(half, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:  # as after a crash at meta-step 30
        file.write('{"meta_step": 30, "meta_loss": 1e9}\n{"meta_st')
    loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_log_that_lost_its_end_stays_readable(half, tmp_path):
    shutil.copytree(half, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert b"\0" not in log.read_bytes()
    assert [json.loads(line)["meta_step"] for line in log.read_text().splitlines()] == [10, 30, 40]


@pytest.mark.parametrize("devices", [1, 2])
def test_the_lengths_of_compiled_calls_do_not_matter(devices):
    problem = bowl_problem()
    run = compiled_chunk(problem, task_mesh(devices))
    at_once, chunk = run(state_of(problem), TRAIN_KEY, 100)
    assert int(chunk.steps) == 100
    state = state_of(problem)
    for length in (7, 1, 42, 30, 20):  # beginning and ending in the middle of what is drawn at once
        state, chunk = run(state, TRAIN_KEY, length)
        assert int(chunk.steps) == length
    assert_same_bits(state, at_once)


@pytest.mark.parametrize("tasks", slow_but([1, 4, 5], 5))
def test_two_devices_give_the_meta_gradient_of_one(float64, tasks):
    problem = bowl_problem(meta_batch_size=tasks)
    params = plain(jnp.array([1.0, -2.0, 0.5]))
    single, double = (gradient_at(problem, devices, params, 9) for devices in (1, 2))
    assert_close(double, single)


@pytest.mark.slow
def test_the_first_tasks_of_a_meta_batch_are_the_same_however_large_it_is_and_all_tasks_and_steps_differ(float64):
    def seen(theta, bowl, key):  # its gradient is the task itself
        return jnp.dot(theta, bowl.center)

    def sums(tasks, step, devices):
        problem = bowl_problem(meta_batch_size=tasks, learner=Learner(seen, optax.sgd(0.1), 0))
        _, gradient = gradient_at(problem, devices, plain(jnp.zeros(3)), step)
        return tasks * np.asarray(gradient.theta)

    totals = [np.zeros(3)] + [sums(tasks, 0, 1) for tasks in (1, 2, 3)]
    assert_close(sums(3, 0, 2), totals[3])
    drawn = [*np.diff(totals, axis=0), sums(1, 1, 1)]
    apart = np.abs(np.array(drawn)[:, None] - np.array(drawn)[None]).max(-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 1e-3


def failing(at_step):
    """A problem whose meta-loss is not a number from one meta-step on."""

    def objective(learner, params, episode, key, step):
        return jnp.where(step >= at_step, jnp.nan, task_loss(learner, params, episode, key, step))

    return bowl_problem(learner=Learner(bowl_loss, optax.sgd(0.1), 2, objective=objective))


def test_a_meta_loss_that_is_not_finite_stops_the_run_names_the_meta_step_and_keeps_the_last_checkpoint(half, tmp_path):
    with pytest.raises(TrainingError, match="meta-step 26 "):
        loop.train(failing(26), tmp_path, seed=3, quiet=True)
    state, _ = last(tmp_path, bowl_problem())
    assert_same_bits(state, last(half, bowl_problem())[0])
    assert [line["meta_step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]


def test_a_meta_step_that_is_not_finite_is_not_taken():
    problem = failing(3)
    run = compiled_chunk(problem, task_mesh(1))
    state, chunk = run(state_of(problem), TRAIN_KEY, 20)
    assert (int(chunk.steps), bool(chunk.finite), int(state.step)) == (3, False, 3)
    good, _ = compiled_chunk(bowl_problem(), task_mesh(1))(state_of(problem), TRAIN_KEY, 3)
    assert_close(state, good, rtol=1e-6)
    assert np.isfinite([chunk.meta_loss, chunk.gradient_norm]).all()


def test_within_what_may_be_interrupted_sigterm_interrupts_and_afterwards_ends_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


SLEEPING = """
import contextlib, hashlib
from fewstep.training import signals
signals.GRACE_SECONDS = 0.1
with {context}:
    while True:  # a signal may come before the call begins
        with contextlib.suppress(KeyboardInterrupt):
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # many minutes without a handler, as in a compiled call
"""


@pytest.mark.parametrize("context", ["signals.StopSignals()", "signals.terminated_as_interrupted()"])
def test_a_second_sigterm_ends_a_process_that_is_within_a_compiled_call(context):
    code = [sys.executable, "-c", SLEEPING.format(context=context)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.terminate()
            assert process.stderr is not None and not process.stderr.readline().strip()
            assert "stopping" in process.stderr.readline() and process.poll() is None
            process.terminate()
            assert process.wait(60) == 128 + signal.SIGTERM
            assert "stopped at once" in process.stderr.read()
        finally:
            process.kill()


def test_a_signal_interrupts_what_may_be_left_at_any_point_and_is_a_request_elsewhere():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with StopSignals() as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.count == 1
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            pytest.fail("a signal that came before is answered at the beginning")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before


def test_a_training_whose_time_is_used_up_keeps_its_state_and_goes_on_bit_for_bit(half, tmp_path):
    problem = bowl_problem()
    with pytest.raises(loop.OutOfTime):
        loop.train(problem, tmp_path, seed=3, quiet=True, late=lambda: True)
    state = loop.train(problem, tmp_path, seed=3, resume=True, quiet=True)
    whole = loop.train(problem, tmp_path / "whole", seed=3, quiet=True)
    assert_same_bits(state, whole)


def test_too_large_an_inner_rate_is_named_as_the_cause(tmp_path):
    problem = bowl_problem(learner=Learner(bowl_loss, optax.sgd(1e30), 2), settings=SimpleNamespace(inner_rate=1e30))
    with pytest.raises(TrainingError) as caught:
        loop.train(problem, tmp_path, seed=3, quiet=True)
    message = str(caught.value)
    assert "meta-step 0 " in message
    assert "support loss" in message
    assert "--inner-rate 1e+29" in message
    assert not any((tmp_path / "checkpoints").iterdir())
    assert "kept" not in message  # there is no checkpoint to keep


def test_a_wild_task_is_named_by_its_place_in_the_meta_batch(tmp_path):
    _, train_key, _ = jax.random.split(jax.random.key(3), 3)
    keys = [jax.random.split(jax.random.fold_in(jax.random.fold_in(train_key, 0), number))[0] for number in range(4)]
    victim = TaskFamily(lambda task, key: task).sample_episode(keys[2])

    def episode(task, key):
        support, query = draw_bowls(task, key)
        return Episode(support, query._replace(center=jnp.where(task == victim, jnp.nan, query.center)))

    splits = Splits(TaskFamily(episode), TaskFamily(draw_bowls, 3), TaskFamily(draw_bowls, 3))
    with pytest.raises(TrainingError, match="task 2 of the meta-batch"):
        loop.train(bowl_problem(splits=splits), tmp_path, seed=3, quiet=True)


def save_several(directory, validations):
    problem = bowl_problem()
    state = state_of(problem)
    with Checkpoints(directory, "new") as checkpoints:
        for step, validation in enumerate(validations, 1):
            theta = jnp.full(3, float(step))
            checkpoints.save(state._replace(params=plain(theta), step=jnp.asarray(step, jnp.int32)), {"validation": validation})
    return state


def test_the_best_and_the_last_checkpoint_come_back_and_few_are_kept(tmp_path):
    like = save_several(tmp_path / "c", [3.0, 0.5, 2.0, 4.0, 1.0])
    with Checkpoints(tmp_path / "c", "read") as checkpoints:
        best, record = checkpoints.restore(like, "best")
        newest, _ = checkpoints.restore(like, "last")
    assert (int(best.step), record["validation"], best.params.theta.tolist()) == (2, 0.5, [2.0] * 3)
    assert (int(newest.step), newest.params.theta.tolist()) == (5, [5.0] * 3)
    assert sorted(int(file.stem) for file in (tmp_path / "c").iterdir()) == [2, 4, 5]


def test_a_checkpoint_of_another_model_and_a_folder_without_any_are_refused(tmp_path):
    like = save_several(tmp_path / "c", [1.0])
    other = like._replace(params=plain(jnp.zeros(4)))
    with (
        Checkpoints(tmp_path / "c", "read") as checkpoints,
        pytest.raises(InputError, match=r"expected F32\[4\], found F32\[3\]"),
    ):
        checkpoints.restore(other, "last")
    for mode in ("read", "resume"):
        with pytest.raises(InputError, match="no checkpoint"):
            Checkpoints(tmp_path / "none", mode)
        (tmp_path / "empty").mkdir(exist_ok=True)
        with Checkpoints(tmp_path / "empty", mode) as checkpoints, pytest.raises(InputError, match="no checkpoint"):
            checkpoints.restore(like, "last")


def test_a_meta_loss_that_explodes_is_warned_of_once_and_a_log_likelihood_never():
    for losses, warnings in (([3.0, 0.1, 9.0, 20.0, 1e9, 0.1], 1), ([-1.0, -3.0, 5.0, 900.0], 0)):
        stream = io.StringIO()
        progress = Progress(600, stream=stream)
        for number, loss in enumerate(losses, 1):
            progress.advance(number * 100)
            progress.record({"meta_step": number * 100, "meta_loss": loss}, [])
        assert stream.getvalue().count("warning: the meta-loss has grown from 0.1 to 20 at meta-step 400") == warnings
        assert stream.getvalue().count("warning") == warnings


def test_a_line_of_the_log_names_its_steps_and_what_was_validated():
    record = {"meta_step": 50, "meta_loss": 0.5, "outer_rate": 0.1, "validation": 0.25}
    for changes, line in (
        ({"metrics": {"error_rate": None}}, "meta-step 50/100  meta-loss 0.5  validation error rate 0.25  outer rate 0.1"),
        ({"unit": "batch"}, "batch 50/100  loss 0.5  validation height 0.25  outer rate 0.1"),
    ):
        stream, problem = io.StringIO(), bowl_problem(**changes)
        parts = SupervisedTrainer(problem, None, 0, True).words(record)
        Progress(100, stream=stream, unit=problem.unit).record(record, parts)
        assert stream.getvalue().splitlines()[-1] == line


def test_training_lowers_the_meta_loss_toward_the_best_starting_point(tmp_path):
    # One bowl, always the same: the best θ solves (I − αA)^K A (θ_K − c) = 0, which is θ = c where support and query agree.
    problem = bowl_problem()
    fixed = TaskFamily(lambda task, key: draw_bowls(jnp.asarray(1), jax.random.key(0)), 1)
    problem = replace(problem, splits=Splits(fixed, fixed, fixed), meta_batch_size=1, outer_optimizer=optax.sgd(0.3))
    state = loop.train(problem, tmp_path, seed=0, meta_steps=400, quiet=True)
    episode = fixed.episode(0, TRAIN_KEY)
    _, exact, _ = bowl_closed_form(state.params.theta, episode, 0.1, 2)
    np.testing.assert_allclose(exact, np.zeros(3), atol=1e-4)
    assert farthest(state.params, plain(problem.init(jax.random.key(0)).theta)) > 0.1
