"""From prepared images to batches: transforms, augmentation, datasets, the data module."""
