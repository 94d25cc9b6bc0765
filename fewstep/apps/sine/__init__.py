"""Regression of sine waves, the demonstration of the MAML paper."""


def __getattr__(name: str):
    """`APPLICATION`, imported when it is asked for."""
    if name == "APPLICATION":
        from fewstep.apps.sine.application import APPLICATION

        return APPLICATION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
