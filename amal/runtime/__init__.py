"""What a process needs, whatever it computes: threads, processes, random streams, files, and whose code may run."""
