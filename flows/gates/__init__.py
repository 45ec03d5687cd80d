"""Gates: policy × evidence → verdict.

```
policy         what can be demanded
evidence       an evaluation as it was logged; soundness, measured, ancestry
rules          one claim, judged by paired statistics; checks, result
judged         claims on what a judge scored, and people labelled
thresholds     limits of size, latency and nearness; latency
contamination  test items in the training data
gate           the verdict
other_base     the live model over another base than the candidate's
sources        evidence by lineage in a registry; directories, without one
channel        the decision about a channel, written down
plan           how many items a policy needs
reports        for people and for CI servers
```
"""
