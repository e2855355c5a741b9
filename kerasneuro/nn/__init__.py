"""Layers that the published networks need and Keras does not have."""
