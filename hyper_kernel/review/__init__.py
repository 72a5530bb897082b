"""What a sandbox changed below its copy of a folder: planned, kept for review, written back."""
