"""What the coordinator keeps: orders, rounds, messages, schedules. The only room that speaks SQL."""
