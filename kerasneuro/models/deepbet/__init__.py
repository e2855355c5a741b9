"""deepbet: two-stage brain extraction from T1-weighted scans.

L. Fisch et al., Computers in Biology and Medicine 179 (2024) 108845, doi:10.1016/j.compbiomed.2024.108845.
"""
