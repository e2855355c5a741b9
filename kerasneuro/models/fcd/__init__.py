"""A small 3-D MobileNetV3 with multi-view fusion that tells FCD from control on T1w and FLAIR.

Model card "MobileNetV3-Small-3D-FCD"; A. Howard et al., arXiv:1905.02244.
"""
