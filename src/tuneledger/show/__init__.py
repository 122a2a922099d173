"""What people look at: figures, tables, the report. Values in, markup out; nothing here reads a file."""
