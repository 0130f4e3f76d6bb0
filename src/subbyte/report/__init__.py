"""Results for people: tables in the terminal and as files."""
