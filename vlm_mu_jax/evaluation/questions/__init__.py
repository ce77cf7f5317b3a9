"""What is asked: questions, suites of them, public data sets."""
