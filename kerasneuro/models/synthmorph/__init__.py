"""Affine, rigid and deformable registration by SynthMorph (VxmAffineFeatureDetector, HyperVxmJoint)."""
