"""Losses, one file each: pure functions of sampled tokens. S = sampled positions of an image."""
