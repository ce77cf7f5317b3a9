"""What the network is: LLaVA as pure functions on nested dicts of arrays."""
