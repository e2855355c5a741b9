"""Models saved as folders."""
