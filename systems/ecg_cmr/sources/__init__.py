"""From ECGs and cines to a cache of pairs."""
