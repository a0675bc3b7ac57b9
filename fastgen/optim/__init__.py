"""Optimizers and learning rates of recipes, each a registered component; known without importing PyTorch."""
