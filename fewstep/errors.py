"""How fewstep refuses. The command turns each into its exit code and never shows a traceback."""


class FewstepError(Exception):
    """Base class of all errors that fewstep raises on purpose."""


class InputError(FewstepError, ValueError):
    """What the user gave cannot be used. The message says what was expected, what came, and what to do. Exit code 2."""


class NotTrusted(InputError):
    """What was asked for would run code that is not fewstep's, and that the user has not named. `option` is what names it."""

    def __init__(self, message: str, option: str):
        super().__init__(message)
        self.option = option


class TrainingError(FewstepError, RuntimeError):
    """A run that started well could not go on (a meta-loss that became NaN, say). Exit code 1."""
