"""What the networks of all systems use."""
