"""A trained model on another data set."""
