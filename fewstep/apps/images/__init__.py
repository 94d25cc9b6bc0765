"""Few-shot classification of images: folders of photos, known datasets, Omniglot."""


def __getattr__(name: str):
    """`APPLICATION`, imported when it is asked for."""
    if name == "APPLICATION":
        from fewstep.apps.images.application import APPLICATION

        return APPLICATION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
