"""Questions to one set: what is asked for, which reads answer it, and the tables that come back."""
