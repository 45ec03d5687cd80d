"""Artifacts for others, and what others made.

```
artifact_export   a directory that says what it is and who vouches for it
export_documents  its documents: model_card, sbom, known_gaps, loading, scores, dossier
signature         OpenSSF model signatures
export_check      such a directory, verified without a registry; export_reading
artifact_import   a stranger's adapter, model or GGUF; import_findings
bring_base        the base that it belongs to
```
"""
