"""The images or texts that samples come from, and which samples come from which."""
