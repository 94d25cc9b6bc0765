"""MAML on sine waves, in the order of docs/tutorial.md: python examples/sine_tutorial.py [FOLDER] prints, draws 4 pictures."""

# Step 1: libraries
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import fewstep
from fewstep import nn
from fewstep.apps.sine.tasks import sine_examples, sine_wave, sine_waves
from fewstep.core import losses

(folder := Path((sys.argv[1:] or ["sine_tutorial"])[0])).mkdir(exist_ok=True)
grid = jnp.linspace(-5, 5, 100)[:, None]
plt.rcParams |= {"figure.figsize": (8, 4), "figure.constrained_layout.use": True, "legend.loc": "upper left"}


def save(name, title, x="x", y="y"):
    plt.title(title), plt.xlabel(x), plt.ylabel(y), plt.legend(bbox_to_anchor=(1, 1)), plt.savefig(folder / name), plt.close()


# Step 2: the task distribution. A task is a wave y = A sin(x + φ), A ~ U(0.1, 5), φ ~ U(0, π); x ~ U(−5, 5).
train_tasks, unseen_tasks = sine_waves(jax.random.key(0), shots=10, queries=10), sine_waves(jax.random.key(1), 10, 100)
for wave in map(sine_wave, jax.random.split(jax.random.key(9), 5)):
    plt.plot(grid, wave(grid), label=f"A = {wave.amplitude:.2f}, φ = {wave.phase:.2f}")
save("1_tasks.png", "Some tasks")

# Step 3: the network, 1 → 40 → 40 → 1 with ReLU; weights uniform within the Glorot bound, biases zero
theta = (network := nn.mlp([1, 40, 40, 1])).init(jax.random.key(2))
print("network:", jax.tree.map(jnp.shape, theta))
# Step 4: hyper-parameters
alpha, beta, meta_batch_size, meta_steps = 0.01, 0.001, 4, 2_000
print(f"α = {alpha}, β = {beta}, {meta_batch_size} tasks a meta-step, {meta_steps} meta-steps")
# Step 5: forward, with the weights given as an argument
print("f(x; θ) at x = −5, 0, 5:", network.apply(theta, jnp.array([[-5.0], [0.0], [5.0]]))[:, 0])

# Steps 6 and 7: the inner update moves a task's copy of θ by α; the outer update moves θ itself by β
loss, inner_optimizer, outer_optimizer = losses.mean_squared_error(network.apply), optax.sgd(alpha), optax.adam(beta)
learner = fewstep.Learner(loss, inner_optimizer, adaptation_steps=1)


# Step 8: training. Fresh tasks are sampled inside the compiled loop; a task's support and query lie on one wave.
def meta_train(learner, family, theta, key):
    def one_meta_step(state, _):
        keys = jax.random.split(jax.random.fold_in(key, state.step), meta_batch_size)
        episodes = jax.vmap(family.sample_episode)(keys)
        meta_loss, gradient = fewstep.meta_gradient(learner, state.params, episodes, keys, state.step)
        return fewstep.meta_step(outer_optimizer, state, gradient), meta_loss

    run = jax.jit(lambda state: jax.lax.scan(one_meta_step, state, length=meta_steps))
    return run(fewstep.init(outer_optimizer, fewstep.MetaParams(theta)))


state, history = meta_train(learner, train_tasks, theta, jax.random.key(3))
for step in range(200, meta_steps + 1, 200):
    print(f"meta-step {step}: meta-loss {history[step - 1]:.3f}, mean of the last 200 {history[step - 200 : step].mean():.3f}")
plt.semilogy(history, lw=0.4, label="each"), plt.plot(range(100, 2000, 200), history.reshape(-1, 200).mean(1), label="mean")
save("2_meta_loss.png", "The meta-loss falls, and stays noisy: each meta-step meets four fresh tasks", "meta-step", "meta-loss")

# Step 9: an unseen task, before and after 1, 5 and 10 adaptation steps
wave = sine_wave(jax.random.key(203))
support = sine_examples(wave, jax.random.uniform(jax.random.key(201), (10, 1), minval=-5, maxval=5))
path = fewstep.adaptation_path(learner, state.params, support, jax.random.key(0), steps=10)
predictions = jax.vmap(lambda params: network.apply(params, grid)[:, 0])(path)
plt.plot(grid, wave(grid), "k", lw=3, alpha=0.4, label="truth"), plt.plot(*support[:2], "ko", label="support")
for steps in (0, 1, 5, 10):
    error = jnp.mean((predictions[steps] - wave(grid)[:, 0]) ** 2)
    print(f"unseen task after {steps:2} steps: MSE {error:.3f}, sum of predictions {predictions[steps].sum():.3f}")
    plt.plot(grid, predictions[steps], label=f"after {steps} step{'s' * (steps > 1)}" if steps else "before")
print("(A sum of predictions measures no error, since signs cancel; it is here because the tutorial prints it.)")
save("3_unseen_task.png", "An unseen task")


# Fewer steps than from random? Shown on 1,000 unseen tasks, beside joint pretraining and an oracle that is told A and φ.
def errors_by_step(learner, theta, family=unseen_tasks, steps=10):
    def one_task(task):
        episode = family.episode(task, jax.random.fold_in(jax.random.key(4), task))
        path = fewstep.adaptation_path(learner, fewstep.MetaParams(theta), episode.support, jax.random.key(0), steps)
        return jax.vmap(lambda params: learner.loss(params, episode.query, None))(path)

    return jax.jit(jax.vmap(one_task))(jnp.arange(1000)).mean(0)


jointly = fewstep.Learner(loss, inner_optimizer, adaptation_steps=0)  # ordinary training on all tasks at once
joint = meta_train(jointly, train_tasks, theta, jax.random.key(3))[0].params.theta
starts = (("random", theta), ("joint pretraining", joint), ("MAML", state.params.theta))
curves = {name: errors_by_step(learner, start) for name, start in starts}
told = nn.mlp([3, 40, 40, 1])  # the oracle's inputs are x, A and φ
oracle = fewstep.Learner(losses.mean_squared_error(told.apply), inner_optimizer, adaptation_steps=0)
told_tasks, told_unseen = (sine_waves(jax.random.key(i), 10, 10 + 90 * i, oracle=True) for i in (0, 1))
told_theta = meta_train(oracle, told_tasks, told.init(jax.random.key(2)), jax.random.key(3))[0].params.theta
curves["oracle"] = jnp.repeat(errors_by_step(oracle, told_theta, told_unseen, steps=0), 11)
for name, curve in curves.items():
    print(f"{name:>17}: MSE after 0, 1, 5, 10 steps " + ", ".join(f"{curve[k]:.3f}" for k in (0, 1, 5, 10)))
    plt.plot(curve, "--" if name == "oracle" else "o-", label=name)
plt.ylim(0), save("4_error_by_step.png", "From MAML's θ, few steps do", "adaptation steps", "MSE on 1,000 unseen tasks")
