"""What a run came to: in the terminal, as a page, as Markdown.

```
summary, rows  the facts, from the registry
report         the terminal
page           one HTML file that loads nothing; markdown
charts         forest_plot, ladder_chart, lineage_picture; svg draws them
```
"""
