"""What every system stands on: a task, a training run, an evaluation run, a predictor, exporting."""
