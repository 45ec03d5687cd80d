"""Commands on what the registry holds: artifacts, their way in and out, backups."""
