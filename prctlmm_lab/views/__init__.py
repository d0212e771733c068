"""What a person sees: pictures and tables made from snapshots, drafts and explanations."""
