"""Where arrays live: the device mesh and the one table from logical axis names to mesh axes."""
