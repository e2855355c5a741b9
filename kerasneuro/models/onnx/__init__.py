"""Segmentation networks of third parties, rebuilt from their ONNX graph and run block by block."""
