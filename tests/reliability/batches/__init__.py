"""SmolLM2-135M on batches of rows of which one is poisoned and one has drifted.

plan         what arrives on each day, and the recipe that is retrained on it
terminal     real commands in one home, shown as a terminal would
forgotten    what holds the poisoned rows, found without asking the registry's own list
picture      curves and decisions of a drill's JSON, as SVG
"""
