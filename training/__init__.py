"""Training programs: `python -m training.train`."""
