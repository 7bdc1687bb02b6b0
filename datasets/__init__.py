"""From files to samples: sources, signal steps, beats, the cache, splits, and the simulated cohort."""
