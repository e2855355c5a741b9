"""Labelled scans as batches for `fit`."""
