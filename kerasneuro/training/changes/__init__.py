"""Random changes of training data."""
