"""HSF: subfields of the hippocampus in T1- and T2-weighted scans, by residual attention U-Nets.

C. Poiret et al., Frontiers in Neuroinformatics 17 (2023) 1130845, doi:10.3389/fninf.2023.1130845.
"""
