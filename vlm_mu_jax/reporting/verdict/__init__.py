"""The verdict in words: what the numbers of the tables say, and nothing else."""
