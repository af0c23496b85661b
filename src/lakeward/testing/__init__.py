"""What lakeward is tested with, and what its users test their pipelines with."""
