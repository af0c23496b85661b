"""What a running pipeline tells people and programs."""
