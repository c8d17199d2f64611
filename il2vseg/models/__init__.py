"""Models: backbones, whitening, low-level branch, segmenter, student, checkpoints."""
