"""What everyone may use: nothing here is heavy to import, nothing knows the method."""
