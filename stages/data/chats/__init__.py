"""What messages hold beside role and content: tools, calls and results, reasoning, weights; what rows do."""
