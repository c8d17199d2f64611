"""From class labels to what a boat needs: horizon, water's edge, obstacles, ranges, alarms."""
