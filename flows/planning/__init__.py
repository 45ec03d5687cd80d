"""How long the stages of a recipe will take: what they have to do, and how fast this machine is.

`amounts` says how much a recipe asks for, `stages.work` what that is for each stage, whatever the machine;
`rates` how fast this one is, measured; `earlier` how long such work took here before; `clock` puts them
together.
"""
