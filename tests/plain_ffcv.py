"""FFCV's own loaders that tests have opened, kept until the process ends.

numba's finalizer of what they compile raises, and where garbage is collected while CPython 3.11 parses some module,
that import then fails with a SystemError (AST constructor recursion depth mismatch).
"""

KEPT: list[object] = []
