"""What a model is on disk: its folder, its parameters, and the hashes that say which weights they are."""
