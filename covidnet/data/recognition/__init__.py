"""Recognise the same image again: alignment, search, overlap of data sets, training images."""
