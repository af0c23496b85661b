"""Benchmarks: lakeward beside a plain baseline, on the same broker, topic and machine in one run."""
