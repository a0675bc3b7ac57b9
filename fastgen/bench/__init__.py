"""fastgen bench: what loaders, bakes and trainings deliver, beside what a user would pick instead."""
