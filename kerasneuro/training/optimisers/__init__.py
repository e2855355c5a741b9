"""Optimisers, and learning rates that change."""
