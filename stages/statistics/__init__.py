"""Statistics of gates and comparisons.

```
intervals     shares, and paired differences of shares
exact         Tango's test where few pairs are discordant
cluster       items that need not be independent, nor 0 or 1
corpus        figures of all items together, from counts
roc           how well scores tell good from bad
prediction_powered  what people would say, from a judge of all items and labels of some
power         how many items a gate needs
merge_choice  which of two merges is better
sequential    two streams of yes or no, looked at while they grow
canary        what a candidate has shown on live traffic
```
"""
