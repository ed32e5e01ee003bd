"""From files on disk to batches: sources, manifest, images, folds, augmentation, phantoms."""
