"""A sweep: its folder, its numbers, its reports and comparisons."""
