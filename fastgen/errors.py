"""Errors that a command tells in one line, beside the UserError of `pipelines.registry`."""


class LostProcess(RuntimeError):
    """Another process of the run, or its machine, has ended or does not answer."""
