"""Fine-tuning of segmentation networks: settings, scans, run."""
