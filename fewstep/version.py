"""The version, in one place (floor 0)."""

__version__ = "0.1.0"
