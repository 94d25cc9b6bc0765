"""Words that are given for options, and the options of every command, as its parser knows them. Used by test_fuzz_flags.py."""

import contextlib
import io
import re

from fewstep import cli

VALUES = {
    "nothing": "",
    "a blank": " ",
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "minus one": "-1",
    "zero": "0",
    "beyond float": "1e400",
    "tiny": "1e-400",
    "large": "1e30",
    "a huge number": "9" * 25,
    "a number of 5000 digits": "9" * 5_000,
    "minus a huge number": "-" + "9" * 25,
    "a fraction": "0.5",
    "10000 letters": "x" * 10_000,
    "odd letters": "é😀\u202e",
    "a color": "\x1b[31mred",
    "bytes that are no text": "caf\udce9",
    "a NUL": "a\x00b",
    "a path outside": "../../x",
    "a folder": "/",
    "an endless device": "/dev/zero",
    "two dashes": "--",
    "an option": "--json",
    "None": "None",
    "True": "True",
    "a list": "[1, 2]",
    "a range": "5:1",
    "a pattern": "*",
    "standard input": "-",
    "an address": "https://example.org/table.csv?unit=*",
    "a way of writing numbers": "depth=number:1.234,5",
    "a brace": "{}",
}
PROBLEMS = ("sine", "table", "images", "omniglot", "robot-faults", "nav2d", "cheetah-vel", "ant-dir", "rl")


def help_of(words):
    """What --help says."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", told.getvalue())


def options_of(words):
    """The options that a command offers, as its own help lists them: a new one is tried from its first day."""
    found = re.findall(r"^[│┃ ]*(--[a-z][a-z-]*)(?=[ ,])", help_of(words), re.MULTILINE)
    return sorted({name for name in found if name != "--help" and not name.startswith("--no-")})
