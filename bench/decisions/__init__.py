"""What a decision of the scheduler's core costs, in time and in work, as programs and workers grow."""
