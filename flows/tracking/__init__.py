"""A run's figures for others' programs: none of it is read here again, and none of it ends a run.

```
curves      each training's losses as an event file for TensorBoard, always
event_file  that file's format
trackers    MLflow and W&B, where TUNELINE_TRACKERS asks for them, in a process of their own
export      that process; figures: what both of them are told
```
"""
