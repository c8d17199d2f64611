"""Backends run a graph: one file per runtime, and the table of providers."""
