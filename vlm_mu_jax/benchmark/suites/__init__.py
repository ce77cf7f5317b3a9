"""The suites of `bin/bench`, one module each. Its docstring says what is measured and what it is compared with."""
