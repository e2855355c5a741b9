"""Fine-tune a segmentation network, and score it."""
