"""From a command line to a checked configuration, and where the jobs of a sweep run."""
