"""Reinforcement learning (floor 2): the same inner and outer loop, where support and query are trajectories.

In reading order: `trajectories` (what is seen), `rollouts` (how it is collected), `advantages` (what each action was worth),
`surrogates` (losses whose gradient is a policy gradient), `adaptation` (the inner loop), `trust_region` and `proximal_policy`
(outer steps), `meta_step` (all of it).
"""
