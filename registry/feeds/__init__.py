"""Feeds: rows to learn from that only ever grow in number, each with its origin, and can be forgotten.

```
corrections what a corrected answer may not hold
rows        what a row is, and which ones are refused
feeds       adding rows, reading them up to a watermark
forgetting  removing them, and what was made from them
traffic     receipts of answers, and feedback on them
```
"""
