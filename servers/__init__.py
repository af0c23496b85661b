"""The real servers that tests and benchmarks run against, installed from package registries, no containers.

`python -m servers install` fetches them once; the classes here start and stop them::

    with Kafka(directory) as kafka:
        kafka.create_topic("trades", partitions=6)

This package belongs to the repository, not to what users install.
"""
