"""An autoencoder of the frames of a cine: the latents that ecg-to-cmr generates."""
