"""Policies that adapt to a task by acting in it (meta-reinforcement learning)."""


def __getattr__(name: str):
    """`APPLICATION`, imported when it is asked for."""
    if name == "APPLICATION":
        from fewstep.apps.policies.application import APPLICATION

        return APPLICATION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
