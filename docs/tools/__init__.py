"""What keeps the documents in step with the package; `docs/make.py` is the command."""
