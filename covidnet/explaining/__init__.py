"""Heat maps of a fold's model and of any images, and their tests."""
