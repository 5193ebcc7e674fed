"""The command line, from a checkout: `python cli.py --help`."""

from __future__ import annotations

try:
    from minires.cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error.name} is not installed; pip install -e . does it") from error

if __name__ == "__main__":
    main(prog_name="python cli.py")
