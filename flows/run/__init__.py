"""What a run is made of: steps, the children that do their work, and those who watch.

```
arithmetic        what `compute_dtype: auto` means for it
step              one step, and who is told of it
find_or_make      how an artifact is born: found under its memo key, or drafted, made, committed
child             the child process in which a stage works
standalone_stage  one stage on plain directories, without a registry
fingerprint       what lies outside the registry, pinned to digests and commits
progress_view     how far the running stage is, in the terminal
stage_row         what became of one step, as reports show it
prefect_view      what Prefect shows of a run
prefect_reporter  the process that tells Prefect
interruptions     Ctrl-C and SIGTERM, held back while a run is not at its steps
readers           standard output and error, where nobody reads them any more
runs              what runs leave behind: records, reports, logs
```
"""
