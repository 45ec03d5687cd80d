"""Upgrades: channels to another base, or to another quantization of theirs.

origin    the recipe that made what a channel serves, by the evidence of what it made
forms     a recipe for another base or another form
plan      for each channel what is to be done, why, and what it takes
hosts     the bases that engines have to hold before a channel moves to them
fleet     the upgrades of a registry: begin one, go on with it, what came of it
undo      every channel that an upgrade moved goes back
"""
