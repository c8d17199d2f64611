"""What training needs: features, selection, clustering, the trainer, the distiller."""
