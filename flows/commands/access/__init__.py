"""Commands about who may do what, and who is told."""
