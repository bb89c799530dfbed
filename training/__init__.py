"""How a network is trained, and what is kept of it.

flags.py         the command line
settings.py      what recipes add to it; errors in one line
machine.py       device, precision, memory; several processes under torchrun
run.py           Run: a run's progress, its best network, stop and resume
optimization.py  the optimizer, the schedule, the running average
checkpoint.py    checkpoints: written, read, and made ready for prediction; the folder that holds them
sweep.py         a grid of runs
"""
