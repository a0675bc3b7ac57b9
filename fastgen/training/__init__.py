"""The parts of the training loop in `fastgen.train`: each module knows one of them."""
