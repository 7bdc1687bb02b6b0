"""The simulated patient: latent physiology and the signals and cines rendered from it, as arrays."""
