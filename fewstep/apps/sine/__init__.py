"""Regression of sine waves, the demonstration of the MAML paper."""
