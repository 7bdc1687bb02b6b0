"""Hearts of other hospitals and devices: one database left out, variants chosen inside the others."""
