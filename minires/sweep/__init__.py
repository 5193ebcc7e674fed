"""Sweeps: many trainings over the options of `train`, kept in a study that survives a kill.

`spec` reads and checks what is asked for, `study` keeps it in Optuna's SQLite, `work` runs one
trial after the other, `report` and `picture` show what came out.
"""
