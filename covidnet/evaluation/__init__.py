"""From a table of predictions to numbers and intervals. Nothing here sees an image or a checkpoint."""
