"""Sinks take what the pipeline made of a frame; each is usable alone."""
