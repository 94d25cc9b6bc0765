"""Running any Problem (floor 3): the outer loop, evaluation, checkpoints, devices, the log. Knows no particular task."""
