"""May these artifacts be combined, and may an engine have them? From their manifests alone.

```
model           what is asked and what is answered: Use, Pair, Check
contract        the rows of the contract, and the way in
base_reference  which base both sides name
adapter         an adapter and the model under it
derivation      what a model was merged or quantized from
engine          what an engine can serve
peft            the files of an adapter, and the names in them
shapes          a model's and an adapter's tensors, small enough for a manifest
```
"""
