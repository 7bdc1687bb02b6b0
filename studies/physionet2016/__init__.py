"""The benchmark on training-a, its robustness to corrupted signals, and its explanation."""
