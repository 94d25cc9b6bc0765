"""The programs that are timed, one file each. Every file has the same three functions:

`versions() -> {package: version}`,
`meta_gradient(adaptation_steps, threads) -> (meta-loss, gradients)` on the fixed weights and episodes of setting.py, and
`program(adaptation_steps, sampling, threads) -> run(n)`, with `sampling` "in" (fresh tasks every meta-step) or "out".

Of another benchmark, speed/policies.py: `torch_maml_trpo`, `torch_trajectories`, `task_environments`, `policy_programs`
and `policy_agreement`.
"""

LABELS = {
    "fewstep_program": "fewstep",
    "plain_jax": "plain JAX, jit of one meta-step",
    "torch_func": "PyTorch, torch.func vmap",
    "torch_compiled": "PyTorch, torch.func compiled",
    "torch_loop": "PyTorch, loop over tasks",
    "learn2learn_loop": "learn2learn MAML, loop",
    "higher_loop": "higher, loop",
    "torchopt_loop": "TorchOpt MetaSGD, loop",
    "tensorflow_loop": "TensorFlow, tf.function",
}
"""Module name -> what the table calls it, in the table's order. The first is what the others are compared with."""

FIRST = next(iter(LABELS))
