"""SmolLM2-135M learns to call tools and to write JSON, and is asked over HTTP for what was evaluated.

rows      made-up rows: requests that five tools answer, and e-mails with an order of six fields
plan      the two recipes, the chat template and the schema
served    the promoted file asked by the openai client, beside what its evaluation recorded
"""
