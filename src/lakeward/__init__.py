"""lakeward keeps lakehouse tables exactly equal to streams."""
