"""What can be known of a run before it starts: each problem in one line, all of them at once."""
