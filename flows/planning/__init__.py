"""What the stages of a recipe will take, and whether this machine has it.

`rows` says what a recipe's data are like, of `sources`; `amounts` and `evaluations` how much a recipe asks
for, `stages.work` and `stages.memory` what that is for each stage on any machine; `machine` what this one
has, `rates` how fast it is and `timed` how long a pass through the model takes; `earlier` what ran here
before, and `alike` whether that was the same; `clock` puts the times together and `estimate` all of it;
`shortfalls` says what is missing, and what would do; `serving` the same of engines.
"""
