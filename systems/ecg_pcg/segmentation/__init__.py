"""Heart states found in a recording without annotations."""
