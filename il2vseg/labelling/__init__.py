"""Labels of an archive: how they are written, the index of what is done, the workers that make them."""
