"""A set of one's own: what lies in a folder, a recipe for it, and which of its labels look wrong."""
