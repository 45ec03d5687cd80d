"""OpenAI's chat and text completion requests: one schema, which the gateway and the engines share.

```
errors           an error in OpenAI's shape
body             the JSON object in a request's body
fields           one field after the other, each with its type and its bounds
messages         a chat's messages, a text completion's prompt
response_format  the form that an answer is to have
tools            the functions that it may call
request          the request as a whole, and as an engine gets it
answers          what is answered
parts            thought, content and calls in the text of an answer; reasoning, pieces
```

What says nothing is accepted wherever it stands. What means something is honoured, or refused by name; what
a refusal recommends is accepted. Nothing is left out in silence.
"""
