"""Whether the figures beside tuned files still hold: a rotating sample is measured every night."""
