"""Clusters of the backbone's whitened tokens: no training at all."""

from dataclasses import dataclass

from il2vseg.methods.base import Method


@dataclass(frozen=True)
class KMeans(Method):
    """The prototypes are clusters of what the head gives before any step: the whitened tokens."""
