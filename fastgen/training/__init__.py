"""The training loop (`loop`), what it begins with (`prepare`) and its parts, one to a module."""
