"""Configuration that people write: read, changed by `--set`, and told what is wrong with it.

```
yaml_text   YAML, or one sentence about it
overrides   `--set KEY.PATH=VALUE`
validation  every problem, at the key that has it
```
"""
