"""One module for each screen, with the figures that it shows."""
