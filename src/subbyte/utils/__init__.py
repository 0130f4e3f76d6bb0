"""What every package may use: files, validation, progress, interruption, memory, the machine."""
