"""The verbs: plain functions from parents and a config to files and facts.

```
resolve, prepare, train, merge, quantize, evaluate, deploy
contract       what each of them promises
run            stages in a process of their own
compatible     what may be combined, before weights are loaded
backends       the only place of torch and its libraries
config         what a recipe can say
quantization   the methods, each an object
families       what is known of architectures
data, formats, untrusted   datasets, model files, files from strangers
scoring        what an answer is worth, from its text
statistics     of gates and comparisons
work, memory, arithmetic, model_shape   what a stage will take
outline, training_record
```
"""
