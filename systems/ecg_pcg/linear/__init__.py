"""The linear model: its fit and its task."""
