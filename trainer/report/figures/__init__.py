"""The figures of a comparison: the paper's (schedule, accuracy, loss), time, a summary, and a sweep."""
