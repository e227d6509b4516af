"""The lab notebook `experiments/`: its files are found, read and run."""
