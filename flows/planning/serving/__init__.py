"""What engines need, and how much they answer, before they are started.

`memory` says what an engine holds, `steps` how long its steps take, `simulation` what comes of that under a
load, and `plan` which rate keeps a promise, or what to change.
"""
