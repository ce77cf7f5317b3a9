"""How a model is attacked: which words of the data predict refusal, and which one word flips the model."""
