"""Tools around exports: names of clusters, annotations."""
