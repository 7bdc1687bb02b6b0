"""A run evaluated on corrupted recordings."""
