"""The published networks: one folder per family, with its graph, its weight table and its task."""
