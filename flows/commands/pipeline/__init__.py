"""Commands from data to endpoint: one run, its stages alone, and what runs by itself."""
