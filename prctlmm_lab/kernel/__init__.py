"""What the kernel knows and says: the struct, /proc, the rules, the effects, the facts."""
