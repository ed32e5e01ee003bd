"""Synthetic radiographs with known lesions."""
