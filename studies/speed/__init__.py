"""How fast preparation, training and inference are."""
