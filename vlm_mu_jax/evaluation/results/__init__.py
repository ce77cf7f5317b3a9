"""From judged answers to numbers, tests and tables."""
