"""Turns a file into 8-bit grey, or refuses it with a cause."""
