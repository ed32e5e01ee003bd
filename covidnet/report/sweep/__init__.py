"""The sections of a sweep's report."""
