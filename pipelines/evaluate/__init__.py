"""Evaluation of checkpoints: exact counts over a whole split."""
