"""Which words of safety data predict refusal, how to take that out of the data, and whether a model has learned it."""
