"""Training of registration: synthetic pairs, and the graph that is trained."""
