"""Networks as plain `torch.nn.Module`s: backbones, heads, weights, saliency. No Lightning, no data."""
