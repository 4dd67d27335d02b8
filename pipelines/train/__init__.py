"""Training: the step, the loop around it, checkpoints, and the command that starts them on Ray."""
