-- Which quantization methods there are is said by manifests (registry/quantization.py): a new one needs no new schema.
ALTER TABLE artifacts DROP CONSTRAINT known_quantization;
