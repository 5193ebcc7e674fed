"""Named recipes: TOML files with the values of `train`, one decision each."""
