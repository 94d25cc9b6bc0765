"""The training loop for any problem: compiled chunks, devices and processes, checkpoints, logs, progress."""
