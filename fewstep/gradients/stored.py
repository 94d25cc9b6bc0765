"""Exact meta-gradients by reverse mode through the whole inner loop (floor 1). A value for `Learner.task_gradient`."""

from __future__ import annotations

from fewstep.maml import task_gradient

stored = task_gradient
"""(objective, its gradient) of one task: second order. All that the inner loop computes is kept in memory until the way back:
the fastest where there is room for it, 9 forward passes of the support set for each adaptation step."""
