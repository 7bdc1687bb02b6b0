"""Phase fusion beside the linear model on unseen sessions, and every variant that was tried."""
