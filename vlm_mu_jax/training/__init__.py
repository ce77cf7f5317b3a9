"""How a model learns: what trains, the optimizer, the compiled step, the loop and its checkpoints."""
