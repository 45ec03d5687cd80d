"""From whatever a dataset looks like to checked, distinct, split chats."""
