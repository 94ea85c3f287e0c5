"""Runs targets for minutes or hours, and keeps and tells what that found.

commands.py   the command line
campaign.py   the parent: who does what for how long, and what comes back
job.py        a worker process, as the parent has it
worker.py     a worker process
desk.py       what it was told to do, and the pipe on which it reports
by_hypothesis.py, by_atheris.py   the engines, inside a worker
watch.py      a target whose executions are counted and whose failures are kept
covering.py   which branches of trio_amped were reached
corpus.py     the examples that the next campaign begins with
failures.py, summary.py, chart.py, display.py   what is kept, and how it is told
interrupts.py   ^C
repeat.py     one failure once more, and smaller
mutants.py    whether planted defects are found
"""
