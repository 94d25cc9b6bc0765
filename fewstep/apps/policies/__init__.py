"""Policies that adapt to a task by acting in it (meta-reinforcement learning)."""
