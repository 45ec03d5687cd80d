"""Commands that judge a candidate, and move a channel to it."""
