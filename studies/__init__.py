"""Studies and measurements: what the numbers in the documentation are made with."""
