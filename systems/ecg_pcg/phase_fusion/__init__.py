"""The phase-fusion network: its fit and its task."""
