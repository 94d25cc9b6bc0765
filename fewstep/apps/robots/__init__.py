"""Dynamics of MuJoCo robots with faults, and model-predictive control."""


def __getattr__(name: str):
    """`APPLICATION`, imported when it is asked for."""
    if name == "APPLICATION":
        from fewstep.apps.robots.application import APPLICATION

        return APPLICATION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
