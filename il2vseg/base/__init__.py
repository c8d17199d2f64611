"""Shared by all packages: light to import, independent of the method."""
