"""The answers and rates of a report in the files of other programs."""
