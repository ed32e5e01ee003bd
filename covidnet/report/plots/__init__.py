"""Figures of a report, and sheets of heat maps."""
