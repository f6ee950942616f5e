"""The figures of a comparison (schedule, accuracy, loss, time, a summary, a sweep), and of plans on many fleets."""
