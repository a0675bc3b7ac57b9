"""What many networks, each trained on a random subset, say of every sample: memorization, influence, consistency."""
