"""Evaluation: metrics, plots, dense CRF."""
