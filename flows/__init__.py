"""What happens, in which order: the only package that knows Prefect.

```
cli, commands        the command `tuneline`
ui                   the web interface
upgrades             channels to another base, or another quantization
retraining           schedules: what runs by itself
sweep                settings of a training that are tried, and the best judged once
execute              a recipe from beginning to report
lifecycle            the whole product on one page
promote, deployment  a verdict, a channel that moves, an engine that starts
canaries             a candidate on live traffic
training             an adapter, on answers and on preferences
merge_choice         into which weights an adapter is merged
unmerged             the adapter for one tenant, beside a base that all share
held_out             what a growing dataset goes on from
evaluation_plan      on what each form of the model is measured
candidate, outcome   a measured form; all that a run has made so far
ladder, report       what the forms are worth, and the page that says it
run                  steps, and the children that do their work
tracking             a run's figures for TensorBoard, MLflow and W&B
preflight, planning  what cannot work, and how much it will take
exchange             artifacts out to others, and theirs in
drift                new inputs beside those of the training
metrics              the registry's numbers for Prometheus
gates                policy × evidence → verdict
doctor, stack        this machine, and the whole system on it
recipe, configuration, reference   what can be said, what is wrong with it, and its documentation
settings, errors, formatting
```
"""
