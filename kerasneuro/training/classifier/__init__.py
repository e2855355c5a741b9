"""Training of classifiers of whole volumes: cohort, preparation, run, outputs."""
