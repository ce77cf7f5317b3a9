"""The suites of `bin/bench`, one module each. A module's docstring says what it measures against what."""
