"""The English world: a real language model, a tower trained here, and the archive of a company."""
