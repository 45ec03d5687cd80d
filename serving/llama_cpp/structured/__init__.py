"""Answers with a structure: JSON that fits a schema, and calls of functions.

`constraints`: what may come next · `tool_calls`: how a chat template writes calls
"""
