"""Tables: one task for each value of a column; the targets are numbers or classes."""


def __getattr__(name: str):
    """`APPLICATION`, imported when it is asked for."""
    if name == "APPLICATION":
        from fewstep.apps.tables.application import APPLICATION

        return APPLICATION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
