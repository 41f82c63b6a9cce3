"""What docs/promises.md promises about speed, measured as ratios in one run: `python -m bench`."""
