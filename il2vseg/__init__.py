"""IL2Vseg: semantic segmentation learned from unlabelled footage (Qing et al., AAAI 2025)."""

__version__ = "0.1.0"
