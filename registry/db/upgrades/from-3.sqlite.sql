-- Which quantization methods there are is said by manifests (registry/quantization.py): a new one needs no new schema.
-- As https://sqlite.org/lang_altertable.html removes a CHECK: no row is touched.
PRAGMA writable_schema = ON;
UPDATE sqlite_master
SET sql = replace(
    sql, 'CONSTRAINT known_quantization CHECK (quant_method IN (''none'', ''bnb'', ''gptq'', ''gguf'')), ', ''
)
WHERE name = 'artifacts';
PRAGMA writable_schema = RESET;
