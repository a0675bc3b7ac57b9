"""What of an image is shown, and how a batch is prepared for the network."""
