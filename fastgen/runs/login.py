"""Whether W&B knows the user."""

from pipelines.errors import UserError


def ask_wandb(remedy: str) -> None:
    """Raises UserError, with the remedy, where W&B does not know the user, whom it asks on a terminal."""
    import wandb

    try:
        mode = wandb.setup().settings.mode
        wandb.setup(wandb.Settings(mode="online"))  # else `login` asks nobody who used `wandb offline`, say
        try:
            known = wandb.login(verify=True)
        finally:
            wandb.setup(wandb.Settings(mode=mode))
    except Exception as error:  # the process that W&B starts can fail in any way
        raise UserError(f"W&B does not start ({error}); {remedy}") from error
    if not known:
        raise UserError(f"W&B does not know this user; {remedy}")
