"""OpenAI's Responses API, as far as it needs no memory: another form of what chats ask and are answered.

```
items    a request's input, as the messages of a chat
request  the request as a whole, as that of a chat
answer   what is answered, made of a chat's answer
stream   the same while it comes, event by event
```

Nothing is kept of a response, so what refers to an earlier one is refused, as are the tools that OpenAI runs.
"""
