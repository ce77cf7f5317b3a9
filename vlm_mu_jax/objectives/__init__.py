"""What is minimised: pure functions of log-probabilities and activations, with explicit masks and reductions."""
