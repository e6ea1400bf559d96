"""Speed, measured side by side in one run; results are committed as data under `results/`."""
