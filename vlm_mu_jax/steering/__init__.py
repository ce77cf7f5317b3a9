"""The guard: safety directions taken from the language tower, operators and gates that steer along them."""
