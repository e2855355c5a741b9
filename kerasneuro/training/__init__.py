"""Training and fine-tuning: losses, optimisers, augmentation, metrics, weights taken from a parent."""
