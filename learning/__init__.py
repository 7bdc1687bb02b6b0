"""Learning: the loop that all tasks share, checkpoints and resume, devices, processes, curves."""
