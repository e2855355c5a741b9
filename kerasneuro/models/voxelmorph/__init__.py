"""Deformable registration: VoxelMorph and SynthMorph's first models (VxmDense, HyperVxmDense)."""
