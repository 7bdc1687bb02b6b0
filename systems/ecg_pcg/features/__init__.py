"""Features of a whole recording, for the linear model and phase fusion."""
