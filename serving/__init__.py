"""Engines that serve artifacts: start one, ask it, see whether it is alive, stop it.

Errors are drawn in `serving.errors`; `serving.standalone` is the way in.
"""
