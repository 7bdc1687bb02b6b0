"""From files of patients to a cache of modalities."""
