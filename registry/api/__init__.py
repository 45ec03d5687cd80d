"""The registry over HTTP, read-only.

```
app         the application: versions, tokens, health
routes      the pages: one function each
models      the shape of every document
queries     pages of rows, filters, cursors
middleware  who may ask, entity tags, compression, problem documents
```
"""
