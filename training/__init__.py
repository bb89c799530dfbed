"""Training: settings, the loop's helpers, and the files that a run leaves.

flags.py         the command line
settings.py      recipes fill in what the command line leaves out; errors in one line
machine.py       device, precision, memory
run.py           Run: a run's progress, its best network, stop and resume
optimization.py  the optimizer, the schedule, the running average
checkpoint.py    checkpoints: written, read, and made ready for prediction; the folder that holds them
sweep.py         a grid of runs"""
