"""Answers with a structure: JSON that fits a schema, and calls of functions.

`constraints`: what may come next · `compiling`: for tenants, within bounds
`tool_calls`: how a chat template writes calls
"""
