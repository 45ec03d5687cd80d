"""OpenAI's requests, and what answers them: one schema, which the gateway and the engines share.

```
errors           an error in OpenAI's shape
body             the JSON object in a request's body
fields           one field after the other, each with its type and its bounds
messages         a chat's messages, a text completion's prompt
response_format  the form that an answer is to have
tools            the functions that it may call
settings         how it is drawn, and where it ends
request          the request of a chat or a text completion as a whole, and as an engine gets it
responses        the same by the Responses API
embeddings       texts whose embeddings are asked for
answers          what is answered
parts            thought, content and calls in the text of an answer; reasoning, pieces
```

What says nothing is accepted wherever it stands. What means something is honoured, or refused by name; what
a refusal recommends is accepted. Nothing is left out in silence.
"""
