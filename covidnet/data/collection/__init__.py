"""Folders and tables become a manifest and a prepared data set."""
