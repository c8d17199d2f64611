"""What judges a model: metrics, plots, dense CRF."""
