"""From the engine's thread to a client: a request's answers in OpenAI's shapes.

`running`: all answers to a request · `choice`: one of them · `logprobs`: how likely its tokens were
`embeddings`: mean states of texts
"""
