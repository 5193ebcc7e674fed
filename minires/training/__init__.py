"""Training: the config, the loop and what hangs on it, checkpoints and run folders.

Read `config.py` (every decision of a training), `loop.py` (the loop), then `callbacks.py`.
Nothing is imported here, so that the command line can read the config without loading NumPy.
"""
