"""The command `fewstep`: one file per subcommand, imported only when it is called, so that help is quick.

Commands of applications are found through `Application.commands`; nothing here knows an application by name.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import sys

from fewstep.cli.failures import stderr_may_be_closed

COMMANDS = {
    "train": "meta-train on a problem, evaluate, draw pictures",
    "resume": "go on with an interrupted run",
    "evaluate": "measure a run on held-out tasks, after 0, 1, 5, 10 adaptation steps",
    "compare": "is meta-learning worth it on these tasks? methods compared, and a verdict",
    "results": "figures of several runs side by side, where they may be compared",
    "plot": "draw the pictures of a run again, from its files",
    "list": "problems, presets and variants, one line each",
}
"""those that are the same for all applications"""

NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)
"""what the system says of a path that cannot be what the user meant"""
LONGEST_WORD = 400
LONGEST = 1_600
"""letters of a word in a message, and of all of it; what is longer ends in dots, or has them in its middle"""


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand. Returns 0 done, 1 a run that failed, 2 bad input or usage, 130 interrupted."""
    with stderr_may_be_closed():
        code = _answer(sys.argv[1:] if argv is None else argv)
    if together := sys.modules.get("fewstep.training.multihost"):
        together.leave(code)
    return code


def _answer(argv: list[str]) -> int:
    if reconfigure := getattr(sys.stdout, "reconfigure", None):  # a name that this terminal has no letters for is escaped
        reconfigure(errors="backslashreplace")
    if argv and argv[0] == "--version":
        from fewstep.version import __version__

        print(f"fewstep {__version__}")
        return 0
    from fewstep.errors import InputError, NotTrusted, TrainingError

    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(help_text(), file=sys.stdout if argv else sys.stderr)
            return 0 if argv else 2
        if odd := next((word for word in argv if "\0" in word), ""):
            raise InputError(f"expected words without NUL, which no file name may hold, got {odd!r}.")
        if argv[0] in COMMANDS:
            return importlib.import_module(f"fewstep.cli.{argv[0]}").main(argv[1:])
        from fewstep.cli.dispatch import commands, run

        if argv[0] in (known := commands()):
            return run(argv[0], argv[1:])
        import difflib

        near = difflib.get_close_matches(argv[0], known := [*COMMANDS, *known], 1)
        expected = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
        print(f"fewstep: there is no command {printable(repr(argv[0]))}; {expected}", file=sys.stderr)
        return 2
    except NotTrusted as error:
        again = shlex.join([os.environ.get("FEWSTEP_COMMAND", "fewstep"), *argv])
        print(f"fewstep {argv[0]}: {printable(error)}\n  {again} {error.option}", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"fewstep {argv[0] if argv else ''}: {printable(error)}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"fewstep {argv[0]}: {printable(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print(f"fewstep {argv[0]}: interrupted.", file=sys.stderr)
        return 130
    except (OSError, MemoryError, RuntimeError) as error:
        from fewstep.cli.failures import resource_error

        if told := resource_error(error):
            print(f"fewstep {argv[0]}: {printable(told)}", file=sys.stderr)
            return 1
        if not isinstance(error, OSError) or error.errno not in NO_PATH:
            raise
        print(f"fewstep {argv[0]}: {printable(error.filename)}: {error.strerror}. Check the path.", file=sys.stderr)
        return 2


def help_text() -> str:
    """What `fewstep --help` prints."""
    from fewstep.cli.dispatch import commands

    return "\n".join(
        [
            "usage: fewstep COMMAND ...",
            "",
            "Learn a starting point. Adapt in a few steps.",
            "",
            *(f"  {name:<12} {line}" for name, line in {**COMMANDS, **commands()}.items()),
            "",
            "fewstep COMMAND --help tells more. First time? Try: fewstep train sine",
        ]
    )


def printable(error: object) -> str:
    """A message that quotes a file or a word: nothing in it steers the terminal, and no word of it fills the screen."""
    plain = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in str(error))
    plain = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda found: f"{found.group()[:LONGEST_WORD]}...", plain)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST // 2]} ... {plain[-LONGEST // 2 :]}"
