"""What is known of families of models (`model_type`) before any work: their blocks, and what each can do."""
