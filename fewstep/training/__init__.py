"""Running any Problem: the outer loop, evaluation, checkpoints, devices, the log. Knows no particular task."""
