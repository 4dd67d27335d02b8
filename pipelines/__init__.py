"""What runs: data preparation, the input stream, training, evaluation and prediction."""
