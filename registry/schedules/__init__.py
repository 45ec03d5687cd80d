"""Schedules: what is retrained, when, for whom and within which limits.

definition    what a schedule says
schedules     the schedules of a registry; every change is in a chained log
occasions     each reason to run, written once
runs          who does which run, and what came of each
"""
