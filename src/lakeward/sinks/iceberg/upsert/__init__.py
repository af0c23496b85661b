"""Row deltas: upserts and deletes on Iceberg v2, through an index of keys and merged position deletes."""
