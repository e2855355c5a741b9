"""FastSurferCNN, version 1: whole-brain segmentation into 95 classes by three 2-D networks.

L. Henschel et al., NeuroImage 219 (2020) 117012, doi:10.1016/j.neuroimage.2020.117012.
"""
