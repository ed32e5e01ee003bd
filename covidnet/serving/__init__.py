"""Trained models at work: on films of any source, in PyTorch or ONNX Runtime, on the command line or behind a page."""
