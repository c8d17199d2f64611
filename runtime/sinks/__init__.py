"""Sinks take results; each is usable alone."""
