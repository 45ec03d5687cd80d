"""`tuneline doctor`: what a run rests on, a line for each thing that was looked at.

```
examination  all of it, side by side
places       this machine and the home
software     Python, packages, Prefect, vLLM
stack        the parts of `make stack`
finding      one line
```
"""
