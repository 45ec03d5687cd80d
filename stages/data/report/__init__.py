"""What a prepared dataset holds that its owner may want to know before it is trained on.

report     the whole of it, split by split
sensitive  likely secrets and personal data, by pattern
similar    held-out rows that ask what a trained row asks
language   which language a row is in
"""
