"""Where a run is watched: W&B and TensorBoard. What a run computes never depends on it."""
