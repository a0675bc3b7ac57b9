"""Baked sets: the .beton files, their manifest, how they are made, copied and exported."""
