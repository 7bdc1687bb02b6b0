"""From raw recordings to a cache of beats."""
