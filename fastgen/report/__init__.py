"""What runs did: pages, plots, tables, W&B reports."""
