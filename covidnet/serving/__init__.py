"""Trained models at work: on images of any source, in PyTorch or ONNX Runtime, on the command line or behind a page."""
