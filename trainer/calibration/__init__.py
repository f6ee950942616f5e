"""What a worker and a fleet were measured to take, and the file of it. Measuring needs torch, reading does not."""
