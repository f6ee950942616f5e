"""The data stream: which image is seen when, and how it becomes a tensor. Start reading at pipeline.py."""
