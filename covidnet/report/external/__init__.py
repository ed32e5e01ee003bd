"""The report of an evaluation on another data set."""
