"""The published networks in plain torch.nn, from their published architectures, without kerasneuro.

A module's name is the name of the Keras layer with "." for some "_", so `weights.fill` can give both the same
random weights.
"""
