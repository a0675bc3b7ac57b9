"""The data wing of fastgen: sources, corruptions, baked .beton sets and the backends that stream them.

A library of its own: it imports nothing from `fastgen`.
"""
