"""Tools, calls and results as people keep them, in the one form that a prepared chat has."""
