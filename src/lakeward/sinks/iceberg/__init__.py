"""Apache Iceberg: staging files and committing them together with positions."""
