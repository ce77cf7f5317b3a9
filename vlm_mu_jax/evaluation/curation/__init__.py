"""The forget and retain sets of an unlearning run, from safety data, answers of models and general data."""
