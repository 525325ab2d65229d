"""The parts of the report command: what it reads, and the templates that it fills."""
