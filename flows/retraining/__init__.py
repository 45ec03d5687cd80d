"""Retraining by itself: schedules in the registry are looked at, and what is due is run, here or by Prefect.

times          cron, windows, nights
targets        for whom a schedule retrains, and with which recipe
learning       what a run would learn from, and whether that is new
drifted        ask for it where inputs have changed
look           give what is due its runs
device         one run for each GPU, or for each machine without one
ceiling        how much a schedule may compute in a night
lane           do the runs that wait, one after the other
words          a schedule in words
night          what a night came to, on one page
deployments    the schedules as Prefect deployments
flow           what Prefect's workers run
"""
