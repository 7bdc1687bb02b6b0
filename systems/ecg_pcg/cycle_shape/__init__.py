"""The cycle-shape model: its fit and its task."""
