"""How a network is trained, and what is kept of it.

settings.py      flags, recipes, device and precision, errors in one line
run.py           Run: a run's progress, its best network, stop and resume
folder.py        a run's folder and what it takes to go on from there
machine.py       what the machine is, and what fits into its memory
optimization.py  the optimizer, the schedule, the running average
checkpoint.py    checkpoints: written, read, and made ready for prediction
sweep.py         a grid of runs
processes.py     several processes under torchrun
"""
